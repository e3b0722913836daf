"""The gate of SpeechT5: graph by graph, step by step, as speech, and at what cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines.pipeline_speecht5 import SpeechT5Pipeline
from dtm_hf.ports.compared import BATCHES, TEXTS, compare_graphs, ported_parts, source_graphs, texts_of
from dtm_hf.ports.cost import cost_of, seconds_in_turns, speaking_cost
from dtm_hf.ports.end_to_end import Judge, end_to_end, spoken_by
from dtm_hf.ports.tolerance import BARS, Bar
from dtm_hf.vocoder.hifigan import as_vocoder

# Frames a token; past what is reached here a cache has grown once.
_MAX_RATIO = 4.0
# Steps that a cost is measured at.
_CACHED, _TOKENS = 300, 40


def check_speecht5_parity(
    source: SpeechT5Pipeline,
    ported: SpeechT5Pipeline,
    speaker: Any = None,
    time_steps: int = 20,
    batches: Sequence[Sequence[int]] = BATCHES,
    judges: Mapping[str, Judge] | None = None,
) -> dict[str, Any]:
    """
    Compare a port with its source.

    Args:
        source ([`SpeechT5Pipeline`]), ported ([`SpeechT5Pipeline`]): on the CPU.
        speaker (*optional*): as of a call; where the pipeline has no voice, an embedding that is nobody's.
        time_steps (`int`, defaults to 20): steps that are timed; 0 times nothing.
        batches (`list[list[int]]`, *optional*): which of the texts are spoken together; all are heard too.
        judges (`dict[str, Callable]`, *optional*): of the sound, as of [`~dtm_hf.ports.end_to_end.end_to_end`].

    Returns:
        `dict`: the report, as of [`~dtm_hf.ports.parity.check_parity`].

    Raises:
        ValueError: if the two do not belong together.
    """
    parts = ported_parts(source, ported, "model")
    weights = parts["model"].manifest.weights
    bar = BARS[weights]
    if speaker is None and source.speakers is None:
        size = source.model.config.speaker_embedding_dim
        speaker = torch.randn(size, generator=torch.Generator().manual_seed(0))
    report: dict[str, Any] = {"weights": weights, "bar": dataclasses.asdict(bar), "rungs": {}}
    report["rungs"]["graphs"] = _graphs(source, ported, parts, speaker, bar, batches)
    report["rungs"]["free run"] = _free_run(source, ported, speaker, bar, batches, stops=weights != "int8")
    texts = texts_of(batches)

    def say(side: str) -> list[np.ndarray]:
        pipeline, seed = spoken_by(side, source, ported)
        return _speak(pipeline, texts, speaker, seed, output_type="np", **_endless(source))

    report["rungs"]["end to end"] = end_to_end(texts, say, source.sampling_rate, bar, judges)
    report["passed"] = all(rung["passed"] for rung in report["rungs"].values())
    report["cost"] = _cost(source, ported, parts, time_steps, speaker)
    return report


def _speak(pipeline, texts: Sequence[str], speaker, seed: int = 0, output_type: str = "mel", **settings) -> list:
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    return pipeline(list(texts), speaker, generator=generators, output_type=output_type, **settings).audios


def _endless(pipeline) -> dict[str, float]:
    """Settings of speech that ends at its longest alone."""
    return {"threshold": float(pipeline.model.config.reduction_factor), "max_ratio": _MAX_RATIO}


def _graphs(source, ported, parts, speaker, bar: Bar, batches) -> dict[str, Any]:
    """Every graph on the inputs that real speech gives it, and the course of the frames' error over the steps."""

    def run() -> None:
        for batch in batches:
            mels = _speak(ported, [TEXTS[i] for i in batch], speaker, **_endless(source))
            if "vocoder" in parts:
                as_vocoder(ported.vocoder)(mels[0][None])

    graphs, differences = compare_graphs(source, parts, run, bar)
    steps = [found.correlation for output, found in differences["model/step"] if output == "frames"]
    return {"passed": all(g["passed"] for g in graphs.values()), "graphs": graphs, "teacher forced": steps[:20]}


def _free_run(source, ported, speaker, bar: Bar, batches, stops: bool) -> dict[str, Any]:
    """
    Whole utterances with the same dropout, beside what another seed changes: as long as they may be, and until the
    model stops, which is to be at the same step. Rounded weights may stop at another.
    """
    rows = []
    for batch in batches:
        texts = [TEXTS[i] for i in batch]
        for settings in (_endless(source), {"max_ratio": _MAX_RATIO}):
            expected = _speak(source, texts, speaker, **settings)
            spoken = _speak(ported, texts, speaker, **settings)
            other = _speak(source, texts, speaker, seed=100, **settings)
            for text, mel, wanted, elsewise in zip(texts, spoken, expected, other, strict=True):
                frames = min(len(mel), len(wanted), len(elsewise))
                distances = (mel[:frames] - wanted[:frames]).abs().mean(dim=-1)
                spread = float((wanted[:frames] - elsewise[:frames]).abs().mean())
                off = (distances > bar.speech * spread).nonzero().flatten().tolist()
                distance = float(distances.mean())
                rows.append(
                    {
                        "text": text,
                        "rows": len(batch),
                        "frames": [len(mel), len(wanted)],
                        "first frame off": off[0] if off else None,
                        "mel distance": distance,
                        "of two seeds": spread,
                        "passed": distance <= bar.speech * spread and (len(mel) == len(wanted) or not stops),
                    }
                )
    return {"passed": all(row["passed"] for row in rows), "utterances": rows}


def _cost(source, ported, parts, repeats: int, speaker) -> dict[str, Any]:
    """Size, the time of a step, and what it takes to speak; there is no stream, and so no first audio."""
    cost = cost_of(source, parts)
    if repeats:
        graph = source_graphs(source, "model", parts["model"])["step"]
        arrays = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
        for name, axis, size in (("cache", 4, _CACHED), ("cross_cache", 4, _TOKENS), ("attention_mask", 1, _TOKENS)):
            arrays[name] = np.repeat(arrays[name], size, axis=axis).take(range(size), axis=axis)
        rows = {name: 2 if name in ("cache", "cross_cache") else 0 for name in arrays if name != "position"}
        arrays |= {name: arrays[name].take([0], axis=axis) for name, axis in rows.items()}
        arrays["position"] = np.array([_CACHED - 1])
        runs = {"source": graph, "port": parts["model"].graphs["step"]}
        medians = seconds_in_turns(runs, arrays, repeats)
        cost[f"step seconds, 1 row, {_TOKENS} tokens, {_CACHED} steps before"] = medians
        cost["pass ratio"] = medians["port"] / medians["source"]

        def speak(pipeline: SpeechT5Pipeline) -> float:
            (sound,) = _speak(pipeline, TEXTS[2:], speaker, output_type="np", **_endless(source))
            return len(sound) / pipeline.sampling_rate

        cost["speaking"] = speaking_cost({"source": partial(speak, source), "port": partial(speak, ported)})
    return cost
