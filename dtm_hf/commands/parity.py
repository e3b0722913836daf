"""The gate of ports from the command line."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dtm_hf.files import write_json

from .console import ArgumentError, stderr
from .models import ANY_KIND, EMBEDDED, choose_model, choose_reference, load_pipeline, pipeline_kind

if TYPE_CHECKING:
    import numpy as np

    from dtm_hf.ports.end_to_end import Judge


def parity(
    model: str,
    port: str,
    report_file: Path | None,
    recognizer: str | None,
    similarity: bool,
    revision: str | None,
    local_files_only: bool,
) -> None:
    """Print a line a rung, write the report, and end with code 1 if the port is not its source."""
    model = choose_model(None if model == EMBEDDED.name and not Path(model).exists() else model)
    try:
        port = choose_model(port)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("`--model`", "`PORT`")) from error
    kind = pipeline_kind(model, revision, local_files_only)
    reference = (
        choose_reference(model, None, None, None, revision, local_files_only) if kind == "DTMPipeline" else None
    )
    judges = _judges(recognizer, similarity)
    source, of_source = _loaded(model, revision=revision, local_files_only=local_files_only)
    ported, of_port = _loaded(port, local_files_only=local_files_only)
    with stderr.status("Comparing"):
        if kind == "TRMPipeline":
            from dtm_hf.ports.parity_trm import check_trm_parity

            report = check_trm_parity(source, ported, judges=judges)
        elif kind == "SpeechT5Pipeline":
            from dtm_hf.ports.parity_speecht5 import check_speecht5_parity

            report = check_speecht5_parity(source, ported, judges=judges)
        else:
            from dtm_hf.ports.parity import check_parity

            report = check_parity(source, ported, str(reference.audio), reference.text, judges=judges)
    report["cost"]["load seconds"] = {"source": of_source, "port": of_port}
    if report_file is not None:
        write_json(report_file, report)
    for name, graph in report["rungs"]["graphs"]["graphs"].items():
        figures = graph["fault"] or f"1 - correlation {graph['correlation']:.1e}, deviation {graph['deviation']:.1e}"
        typer.echo(f"{'ok  ' if graph['passed'] else 'FAIL'} {name}: {figures}, {graph['calls']} answers")
    run = report["rungs"]["free run"]
    typer.echo(f"{'ok  ' if run['passed'] else 'FAIL'} speech: {_distance(run['utterances'])}")
    _echo_heard(report["rungs"]["end to end"])
    cost = report["cost"]
    typer.echo(
        f"pass: {cost['pass ratio']:.2f} of the source's time, on {cost['cpu']}, {cost['torch threads']} threads"
    )
    if not report["passed"]:
        raise typer.Exit(1)


def _loaded(name: str, **options: Any) -> tuple[Any, float]:
    """A pipeline, and the seconds that it took to load; the libraries were imported before."""
    import dtm_hf

    for kind in ANY_KIND:
        getattr(dtm_hf, kind)
    started = time.perf_counter()
    pipeline = load_pipeline(name, kinds=ANY_KIND, device="cpu", **options)
    return pipeline, time.perf_counter() - started


def _judges(recognizer: str | None, similarity: bool) -> dict[str, "Judge"]:
    """Who listens to source and port: nobody where nobody is asked for."""
    judges: dict[str, Judge] = {}
    if recognizer is not None:
        from dtm_hf.evaluation.metric import BenchmarkItem, Speech
        from dtm_hf.evaluation.metrics.words import WordErrorRate
        from dtm_hf.evaluation.recognizers import load_recognizer
        from dtm_hf.ports.compared import TEXTS

        # For a recogniser that is held to a list of words.
        words = sorted({word.strip(".,").lower() for text in TEXTS for word in text.split()})
        try:
            error_rate = WordErrorRate(load_recognizer(recognizer, words))
        except ValueError as error:
            raise ArgumentError(str(error).replace("`recognizer`", "`--recognizer`")) from error

        def word_error(text: str, sound: "np.ndarray", rate: int, beside: "np.ndarray") -> tuple[float, float] | None:
            return error_rate(Speech(sound, rate, sound[:, None]), BenchmarkItem(text, text, beside, text))

        judges["word error"] = word_error
    if similarity:
        from dtm_hf.evaluation.metric import BenchmarkItem, Speech
        from dtm_hf.evaluation.metrics.speaker import SpeakerSimilarity

        measures = cache(SpeakerSimilarity)

        def alike(text: str, sound: "np.ndarray", rate: int, beside: "np.ndarray") -> tuple[float, float] | None:
            # The prompt is what the source says, which is as like itself as can be.
            return measures(rate)(Speech(sound, rate, sound[:, None]), BenchmarkItem(text, text, beside, text))

        judges["similarity to the source"] = alike
    return judges


def _distance(utterances: Sequence[Mapping[str, Any]]) -> str:
    """The largest distance of those that there are, and of how many utterances there is none."""
    pairs = [(row["mel distance"], row["of two seeds"]) for row in utterances]
    ratios = [distance / spread if spread else (math.inf if distance else 0.0) for distance, spread in pairs]
    told = [ratio for ratio in ratios if math.isfinite(ratio)]
    parts = [f"mel distance at most {max(told):.1e} of that of two seeds"] if told else []
    if len(told) < len(pairs):
        parts.append(
            f"{len(pairs) - len(told)} of {len(pairs)} utterances have none (in the report null), for they are longer "
            "or shorter than the source's, or hold values that are no numbers"
        )
    return "; ".join(parts)


def _echo_heard(heard: dict[str, Any]) -> None:
    mark = "FAIL" if not heard["passed"] else "ok  " if heard.get("judged", True) else "    "
    typer.echo(f"{mark} sound: {_distance(heard['utterances'])}")
    for name, sides in heard["figures"].items():
        shown = (f"{side} {'-' if value is None else format(value, '.3f')}" for side, value in sides.items())
        typer.echo(f"     {name}: {', '.join(shown)}")
