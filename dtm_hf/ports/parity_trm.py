"""The gate of a pipeline of codes, whose codec is a graph: graph by graph, as speech, and at what cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.pipelines.pipeline_trm import TRMPipeline
from dtm_hf.ports.compared import (
    BATCHES,
    TEXTS,
    compare_graphs,
    cost_of,
    ported_parts,
    seconds_in_turns,
    source_graphs,
)
from dtm_hf.ports.tolerance import BARS

# Frames that a cost is measured at: ten seconds.
_FRAMES = 125


def check_trm_parity(
    source: TRMPipeline, ported: TRMPipeline, time_passes: int = 3, batches: Sequence[Sequence[int]] = BATCHES
) -> dict[str, Any]:
    """
    Compare a port with its source.

    Args:
        source ([`TRMPipeline`]), ported ([`TRMPipeline`]): on the CPU.
        time_passes (`int`, defaults to 3): passes that are timed; 0 times nothing.
        batches (`list[list[int]]`, *optional*): which of the texts are spoken together.

    Returns:
        `dict`: the report, ready for JSON, as of [`~dtm_hf.ports.parity.check_parity`].

    Raises:
        ValueError: if the two do not belong together.
    """
    parts = ported_parts(source, ported, "codec")
    weights = parts["codec"].manifest.weights
    bar = BARS[weights]
    report: dict[str, Any] = {"weights": weights, "bar": dataclasses.asdict(bar), "rungs": {}}

    def run() -> None:
        for batch in batches:
            _speak(ported, [TEXTS[i] for i in batch])

    graphs, _ = compare_graphs(source, parts, run, bar)
    report["rungs"]["graphs"] = {"passed": all(graph["passed"] for graph in graphs.values()), "graphs": graphs}
    rows = []
    for batch in batches:
        texts = [TEXTS[i] for i in batch]
        spoken, expected, other = _speak(ported, texts), _speak(source, texts), _speak(source, texts, seed=100)
        for text, mel, wanted, elsewise in zip(texts, spoken, expected, other, strict=True):
            same = mel.shape == wanted.shape
            spread = float((wanted - elsewise).abs().mean())
            distance = float((mel - wanted).abs().mean()) if same else float("inf")
            figures = {"mel distance": distance, "of two seeds": spread}
            passed = same and distance <= bar.speech * spread
            rows.append({"text": text, "rows": len(batch), "frames": [len(mel), len(wanted)]} | figures)
            rows[-1]["passed"] = passed
    report["rungs"]["free run"] = {"passed": all(row["passed"] for row in rows), "utterances": rows}
    report["passed"] = all(rung["passed"] for rung in report["rungs"].values())
    report["cost"] = _cost(source, parts, time_passes)
    return report


def _speak(pipeline: TRMPipeline, texts: Sequence[str], seed: int = 0) -> list[torch.Tensor]:
    """Log-mels `(N, M)`."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    audios = pipeline(list(texts), generator=generators, output_type="pt").audios
    extractor = F5FeatureExtractor()
    return [extractor.log_mel(audio[None])[0] for audio in audios]


def _cost(source: TRMPipeline, parts, passes: int) -> dict[str, Any]:
    cost = cost_of(source, parts)
    if passes:
        graph = source_graphs(source, "codec", parts["codec"])["decoder"]
        codes = graph.inputs["codes"].numpy()[:1]
        arrays = {"codes": np.resize(codes, (*codes.shape[:2], _FRAMES)), "used": graph.inputs["used"].numpy()}
        medians = seconds_in_turns({"source": graph, "port": parts["codec"].graphs["decoder"]}, arrays, passes)
        cost[f"decoder seconds, 1 row of {_FRAMES} frames"] = medians
        cost["pass ratio"] = medians["port"] / medians["source"]
    return cost
