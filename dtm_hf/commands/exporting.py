"""Exporting a pipeline from the command line."""

import shutil
from pathlib import Path

import typer

from .console import ArgumentError, quiet_libraries, stderr
from .models import ANY_KIND, EMBEDDED, choose_model, load_pipeline, model_voices


def export(
    model: str,
    output: Path,
    *,
    export_format: str = "onnx",
    weights: str = "fp32",
    student: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> None:
    """Write the port of a pipeline, whole or not at all, with the recordings that are packaged with it."""
    model = choose_model(None if model == EMBEDDED.name and not Path(model).exists() else model)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ArgumentError(f"`OUT` {str(output)!r} exists and is not an empty folder; choose another or remove it.")
    quiet_libraries()
    with stderr.status("Importing the libraries"):
        from dtm_hf.ports.export import check_format, export_pipeline
    try:
        check_format(export_format, weights)
    except (ValueError, ImportError) as error:
        typed = str(error).replace("`format`", "`--format`").replace("`weights`", "`--weights`")
        raise (ArgumentError if isinstance(error, ValueError) else ImportError)(typed) from error
    pipeline = load_pipeline(
        model, kinds=ANY_KIND, device="cpu", revision=revision, local_files_only=local_files_only, student=student
    )
    with stderr.status(f"Exporting as {export_format}, a graph after the other"):
        export_pipeline(pipeline, output, export_format, weights)
    for voice in model_voices(model, revision, local_files_only).values():
        for file in (voice.audio, voice.audio.with_suffix(".txt")):
            shutil.copyfile(file, output / file.name)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    typer.echo(output)
    name = pipeline.backbone.config.name if hasattr(pipeline, "backbone") else Path(model).name
    typer.echo(f"{name} as {export_format} with {weights} weights, {size / 1e6:.1f} MB")
