"""The gate of ports from the command line."""

import json
from pathlib import Path

import typer

from dtm_hf.files import written_aside

from .console import ArgumentError, stderr
from .models import ANY_KIND, EMBEDDED, choose_model, choose_reference, load_pipeline, pipeline_kind


def parity(model: str, port: str, report_file: Path | None, revision: str | None, local_files_only: bool) -> None:
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
    source = load_pipeline(model, kinds=ANY_KIND, device="cpu", revision=revision, local_files_only=local_files_only)
    ported = load_pipeline(port, kinds=ANY_KIND, device="cpu", local_files_only=local_files_only)
    with stderr.status("Comparing"):
        if kind == "TRMPipeline":
            from dtm_hf.ports.parity_trm import check_trm_parity

            report = check_trm_parity(source, ported)
        elif kind == "SpeechT5Pipeline":
            from dtm_hf.ports.parity_speecht5 import check_speecht5_parity

            report = check_speecht5_parity(source, ported)
        else:
            from dtm_hf.ports.parity import check_parity

            report = check_parity(source, ported, str(reference.audio), reference.text)
    if report_file is not None:
        with written_aside(report_file) as aside:
            aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, graph in report["rungs"]["graphs"]["graphs"].items():
        figures = graph["fault"] or f"1 - correlation {graph['correlation']:.1e}, deviation {graph['deviation']:.1e}"
        typer.echo(f"{'ok  ' if graph['passed'] else 'FAIL'} {name}: {figures}, {graph['calls']} answers")
    run = report["rungs"]["free run"]
    worst = max(row["mel distance"] / row["of two seeds"] for row in run["utterances"])
    typer.echo(f"{'ok  ' if run['passed'] else 'FAIL'} speech: mel distance at most {worst:.1e} of that of two seeds")
    typer.echo(f"pass: {report['cost']['pass ratio']:.2f} of the source's time")
    if not report["passed"]:
        raise typer.Exit(1)
