"""The gate of a pipeline of codes: graph by graph, code by code, as speech, and at what cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.pipelines.pipeline_trm import TRMPipeline
from dtm_hf.ports.compared import BATCHES, TEXTS, compare_graphs, ported_parts, source_graphs, texts_of
from dtm_hf.ports.comparison import beside_two_seeds
from dtm_hf.ports.cost import cost_of, seconds_in_turns, speaking_cost
from dtm_hf.ports.end_to_end import SIDES, Judge, end_to_end, spoken_by
from dtm_hf.ports.tolerance import BARS, Bar

# Frames that a cost is measured at: ten seconds.
_FRAMES = 125
# Of the codes in float32: one that lies between two answers may fall to either side, and draws others after it.
_CODES = 0.01


def check_trm_parity(
    source: TRMPipeline,
    ported: TRMPipeline,
    time_passes: int = 3,
    batches: Sequence[Sequence[int]] = BATCHES,
    judges: Mapping[str, Judge] | None = None,
) -> dict[str, Any]:
    """
    Compare a port with its source.

    Args:
        source ([`TRMPipeline`]), ported ([`TRMPipeline`]): on the CPU.
        time_passes (`int`, defaults to 3): passes that are timed; 0 times nothing.
        batches (`list[list[int]]`, *optional*): which of the texts are spoken together; all are heard too.
        judges (`dict[str, Callable]`, *optional*): of the sound, as of [`~dtm_hf.ports.end_to_end.end_to_end`].

    Returns:
        `dict`: the report, as of [`~dtm_hf.ports.parity.check_parity`].

    Raises:
        ValueError: if the two do not belong together.
    """
    parts = ported_parts(source, ported, "codec")
    weights = parts["codec"].manifest.weights
    bar = BARS[weights]
    # Where weights are rounded, codes are drawn of other probabilities: there each graph is judged, and the sound of
    # the same codes.
    exact = weights == "fp32"
    for pipeline in (source, ported):
        pipeline.set_progress_bar_config(disable=True)
    report: dict[str, Any] = {"weights": weights, "bar": dataclasses.asdict(bar), "rungs": {}}

    def run() -> None:
        for batch in batches:
            ported.decode(*_speak(ported, [TEXTS[i] for i in batch]))

    graphs, _ = compare_graphs(source, parts, run, bar)
    report["rungs"]["graphs"] = {"passed": all(graph["passed"] for graph in graphs.values()), "graphs": graphs}
    report["rungs"]["free run"] = _free_run(source, ported, bar, batches, exact)
    texts = texts_of(batches)

    def say(side: str) -> list[np.ndarray]:
        pipeline, seed = spoken_by(side, source, ported)
        rows, codes = _speak(pipeline, texts, seed)
        return pipeline.decode(rows, codes)

    heard = end_to_end(texts, say, source.sampling_rate, bar, judges)
    report["rungs"]["end to end"] = heard if exact else heard | {"passed": True, "judged": False}
    report["passed"] = all(rung["passed"] for rung in report["rungs"].values())
    report["cost"] = _cost(source, ported, parts, time_passes)
    return report


def _speak(pipeline: TRMPipeline, texts: Sequence[str], seed: int = 0) -> tuple[list, list[torch.Tensor]]:
    """Rows and their codes, decided together."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    rows = pipeline.prepare(list(texts))
    codes = pipeline.sample(rows, generator=generators, max_batch_frames=1 << 20)
    return rows, codes


def _free_run(source, ported, bar: Bar, batches, exact: bool) -> dict[str, Any]:
    """Whole utterances from the same draws, beside what another seed changes: their codes, and the sound of a code."""
    rows, extractor = [], F5FeatureExtractor()
    for batch in batches:
        texts = [TEXTS[i] for i in batch]
        sides = (spoken_by(side, source, ported) for side in SIDES)
        (of_source, expected), (_, found), (_, other) = (_speak(pipeline, texts, seed) for pipeline, seed in sides)
        # The same codes through both codecs, and those of another seed.
        sounds = (
            source.decode(of_source, expected),
            ported.decode(of_source, expected),
            source.decode(of_source, other),
        )
        expected, found = (source.decode(of_source, codes, "codes") for codes in (expected, found))
        for k, text in enumerate(texts):
            wanted, mel, elsewise = (extractor.log_mel(torch.from_numpy(one[k])[None])[0] for one in sounds)
            distance, spread = beside_two_seeds(mel, wanted, elsewise, 0.0)
            same = found[k].shape == expected[k].shape
            differing = float((found[k] != expected[k]).float().mean()) if same else 1.0
            rows.append(
                {
                    "text": text,
                    "rows": len(batch),
                    "frames": [len(mel), len(wanted)],
                    "codes that differ": differing,
                    "mel distance": distance,
                    "of two seeds": spread,
                    "passed": same and distance <= bar.speech * spread and (differing <= _CODES or not exact),
                }
            )
    return {"passed": all(row["passed"] for row in rows), "utterances": rows}


def _cost(source, ported, parts, passes: int) -> dict[str, Any]:
    """Size, the time of a pass of the codec, and what it takes to speak."""
    cost = cost_of(source, parts)
    if passes:
        graph = source_graphs(source, "codec", parts["codec"])["decoder"]
        codes = graph.inputs["codes"].numpy()[:1]
        arrays = {"codes": np.resize(codes, (*codes.shape[:2], _FRAMES)), "used": graph.inputs["used"].numpy()}
        medians = seconds_in_turns({"source": graph, "port": parts["codec"].graphs["decoder"]}, arrays, passes)
        cost[f"decoder seconds, 1 row of {_FRAMES} frames"] = medians
        cost["pass ratio"] = medians["port"] / medians["source"]

        def speak(pipeline: TRMPipeline) -> float:
            rows, codes = _speak(pipeline, TEXTS[2:])
            return sum(len(sound) for sound in pipeline.decode(rows, codes)) / pipeline.sampling_rate

        def first_chunk(pipeline: TRMPipeline) -> Any:
            return next(pipeline.stream(TEXTS[2], generator=torch.Generator().manual_seed(0)))

        sides = {"source": source, "port": ported}
        cost["speaking"] = speaking_cost(
            {side: partial(speak, pipeline) for side, pipeline in sides.items()},
            {side: partial(first_chunk, pipeline) for side, pipeline in sides.items()},
        )
    return cost
