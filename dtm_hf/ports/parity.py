"""The gate: is a port its source? Graph by graph, step by step, as speech, and at what cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines.pipeline_dtm import DTMPipeline
from dtm_hf.ports.compared import BATCHES, TEXTS, compare_graphs, ported_parts, source_graphs, texts_of
from dtm_hf.ports.comparison import beside_two_seeds
from dtm_hf.ports.cost import cost_of, seconds_in_turns, speaking_cost
from dtm_hf.ports.end_to_end import Judge, end_to_end, spoken_by
from dtm_hf.ports.tolerance import BARS, Bar

_ALL_FRAMES = 1 << 20
# Several steps, both branches and, with a head, two calls a step: every graph runs in every way that it can.
SETTINGS = ({"num_inference_steps": 4, "num_head_steps": 2}, {"num_inference_steps": 3, "num_head_steps": 0})


def check_parity(
    source: DTMPipeline,
    ported: DTMPipeline,
    reference_audio: Any,
    reference_text: str,
    time_passes: int = 5,
    judges: Mapping[str, Judge] | None = None,
    batches: Sequence[Sequence[int]] = BATCHES,
) -> dict[str, Any]:
    """
    Compare a port with its source.

    Args:
        source ([`DTMPipeline`]), ported ([`DTMPipeline`]): on the CPU.
        reference_audio, reference_text (`str`): a recording to speak like.
        time_passes (`int`, defaults to 5): passes of the backbone that are timed; 0 times nothing.
        judges (`dict[str, Callable]`, *optional*): of the sound, as of [`~dtm_hf.ports.end_to_end.end_to_end`].
        batches (`list[list[int]]`, *optional*): which of the texts are spoken together; all are heard too.

    Returns:
        `dict`: the report, for [`~dtm_hf.files.write_json`]: a figure that there is none of is infinite or not a
            number. `passed` says whether every rung holds.

    Raises:
        ValueError: if the two do not belong together.
    """
    parts = ported_parts(source, ported, "backbone")
    weights = parts["backbone"].manifest.weights
    bar = BARS[weights]
    for pipeline in (source, ported):
        pipeline.set_progress_bar_config(disable=True)
    report: dict[str, Any] = {"weights": weights, "bar": dataclasses.asdict(bar), "rungs": {}}
    report["rungs"]["graphs"] = _graphs(source, ported, parts, reference_audio, reference_text, bar, batches)
    report["rungs"]["free run"] = _free_run(source, ported, reference_audio, reference_text, bar, batches)
    texts = texts_of(batches)

    def say(side: str) -> list[np.ndarray]:
        pipeline, seed = spoken_by(side, source, ported)
        return _speak(pipeline, texts, reference_audio, reference_text, seed, output_type="np", **SETTINGS[0])

    rate = source.vocoder.sampling_rate
    report["rungs"]["end to end"] = end_to_end(texts, say, rate, bar, judges)
    report["passed"] = all(rung["passed"] for rung in report["rungs"].values())
    report["cost"] = _cost(source, ported, parts, time_passes, reference_audio, reference_text)
    return report


def _speak(
    pipeline: DTMPipeline,
    texts: Sequence[str],
    reference_audio,
    reference_text,
    seed: int = 0,
    output_type: str = "mel",
    **settings,
) -> list:
    settings = _guided(pipeline, settings)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    return pipeline(
        list(texts),
        reference_audio,
        reference_text,
        generator=generators,
        output_type=output_type,
        # All rows at once: a graph has to take padding too.
        max_batch_frames=_ALL_FRAMES,
        **settings,
    ).audios


def _guided(pipeline: DTMPipeline, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with a guidance that the pipeline takes, and steps that its student knows."""
    settings = dict(settings)
    if pipeline.head is None or settings["num_head_steps"] == 0:
        guidance = 1.0 if pipeline.backbone.config["step_counts"] else 2.0
        if pipeline.backbone.config["step_counts"]:
            settings["num_inference_steps"] = pipeline.backbone.config["step_counts"][-1]
    else:
        guidance = pipeline.head.config.guidance_scale or 2.0
    return settings | {"guidance_scale": guidance}


def _graphs(source, ported, parts, reference_audio, reference_text, bar: Bar, batches) -> dict[str, Any]:
    """Every graph on the inputs that real speech gives it, and the course of the backbone's error over the steps."""

    def run() -> None:
        for batch in batches:
            for settings in SETTINGS:
                mels = _speak(ported, [TEXTS[i] for i in batch], reference_audio, reference_text, **settings)
                if "vocoder" in parts:
                    ported.vocoder(mels[0][None])

    graphs, differences = compare_graphs(source, parts, run, bar)
    steps = [found.correlation for output, found in differences["backbone/backbone"] if output == "velocity"]
    first = steps[: SETTINGS[0]["num_inference_steps"]]
    return {"passed": all(g["passed"] for g in graphs.values()), "graphs": graphs, "teacher forced": first}


def _free_run(source, ported, reference_audio, reference_text, bar: Bar, batches) -> dict[str, Any]:
    """Whole utterances from the same noise, beside what another seed changes."""
    rows = []
    for batch in batches:
        texts = [TEXTS[i] for i in batch]
        for settings in SETTINGS:
            expected = _speak(source, texts, reference_audio, reference_text, **settings)
            spoken = _speak(ported, texts, reference_audio, reference_text, **settings)
            other = _speak(source, texts, reference_audio, reference_text, seed=100, **settings)
            for text, mel, wanted, elsewise in zip(texts, spoken, expected, other, strict=True):
                distance, spread = beside_two_seeds(mel, wanted, elsewise, bar.length)
                rows.append(
                    {
                        "text": text,
                        "rows": len(batch),
                        "frames": [len(mel), len(wanted)],
                        "mel distance": distance,
                        "of two seeds": spread,
                        # What is no number compares as false.
                        "passed": distance <= bar.speech * spread,
                    }
                )
    return {"passed": all(row["passed"] for row in rows), "utterances": rows}


def _cost(source, ported, parts, passes: int, reference_audio, reference_text) -> dict[str, Any]:
    """Size, the time of a pass, and what it takes to speak."""
    cost = cost_of(source, parts)
    if passes:
        graph = source_graphs(source, "backbone", parts["backbone"])["backbone"]
        arrays = {name: _longer(tensor.numpy(), graph.axes[name]) for name, tensor in graph.inputs.items()}
        runs = {"source": graph, "port": parts["backbone"].graphs["backbone"]}
        medians = seconds_in_turns(runs, arrays, passes)
        cost["pass seconds, 1 row of 300 frames"] = medians
        cost["pass ratio"] = medians["port"] / medians["source"]
        given, settings = (reference_audio, reference_text), SETTINGS[0]

        def speak(pipeline: DTMPipeline) -> float:
            (sound,) = _speak(pipeline, TEXTS[2:], *given, output_type="np", **settings)
            return len(sound) / pipeline.vocoder.sampling_rate

        def first_chunk(pipeline: DTMPipeline) -> Any:
            return next(pipeline.stream(TEXTS[2], *given, **_guided(pipeline, settings)))

        sides = {"source": source, "port": ported}
        cost["speaking"] = speaking_cost(
            {side: partial(speak, pipeline) for side, pipeline in sides.items()},
            {side: partial(first_chunk, pipeline) for side, pipeline in sides.items()},
        )
    return cost


def _longer(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """An example of one row and 300 frames."""
    array = array[:1]
    return np.resize(array, (1, 300, *array.shape[2:])) if 1 in axes else array
