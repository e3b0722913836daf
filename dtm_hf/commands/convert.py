"""Conversion of official F5-TTS checkpoints into pipeline folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from dtm_hf.files import folder_written_aside

from .console import ArgumentError, quiet_libraries, say_note, stderr


def convert_f5(
    checkpoint: str,
    vocab: str,
    output: Path,
    *,
    variant: str | None = None,
    vocoder: str | None = None,
    revision: str | None = None,
    license: str = "cc-by-nc-4.0",
    use_ema: bool = True,
) -> None:
    """Write the pipeline folder `output`, whole or not at all. It has no head and samples as F5-TTS does: 32 steps."""
    absent = [
        f"`{name}` {path!r} is no file"
        for name, path in (("CHECKPOINT", checkpoint), ("VOCAB", vocab))
        if not path.startswith("hf://") and not Path(path).is_file()
    ]
    if absent:
        raise ArgumentError(f"{', and '.join(absent)}; give a local path or hf://org/repo/path.")
    quiet_libraries()
    with folder_written_aside(output) as folder, stderr.status("Importing the libraries") as status:
        from dtm_hf.backbone.f5_checkpoint import named_variant, resolve_file, variant_config

        try:
            variant is None or variant_config(variant)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        import dtm_hf

        status.update(f"Reading {checkpoint}")
        problems: list[str] = []
        with _naming("CHECKPOINT", checkpoint, problems):
            file = resolve_file(checkpoint, revision=revision)
        with _naming("VOCAB", vocab, problems):
            vocab_file = resolve_file(vocab, revision=revision)
        spectrum_inverter = dtm_hf.GriffinLimVocoder()
        if vocoder is not None:
            with _naming("--vocoder", vocoder, problems):
                spectrum_inverter = dtm_hf.VocosVocoder.from_vocos_checkpoint(vocoder)
        # All at once: who is offline fetches them elsewhere, and in one go.
        if problems:
            raise OSError(" ".join(problems))
        tokenizer = dtm_hf.F5Tokenizer(vocab_file)
        variant = variant or named_variant(checkpoint)
        backbone = dtm_hf.F5Backbone.from_f5_checkpoint(
            file, vocab=vocab_file, variant=variant, revision=revision, license=license, use_ema=use_ema
        )
        pipeline = dtm_hf.DTMPipeline(
            backbone=backbone,
            tokenizer=tokenizer,
            feature_extractor=dtm_hf.F5FeatureExtractor(),
            vocoder=spectrum_inverter,
            scheduler=dtm_hf.DTMScheduler(num_inference_steps=32, num_head_steps=0),
        )
        status.update(f"Writing {output}")
        pipeline.save_pretrained(folder)
    if vocoder is None:
        say_note("it speaks with Griffin-Lim; for the sound of F5-TTS add `--vocoder charactr/vocos-mel-24khz`.")
    typer.echo(output)
    typer.echo(
        f"{backbone.config.name}: {sum(p.numel() for p in backbone.parameters()):,} parameters, "
        f"{tokenizer.vocab_size} tokens, fingerprint {backbone.fingerprint}, licence {license}"
    )


@contextmanager
def _naming(argument: str, value: str, problems: list[str]) -> Iterator[None]:
    """Puts down which of the files it is that cannot be had, and why."""
    try:
        yield
    except OSError as error:
        problems.append(f"`{argument}` {value!r} cannot be had: {error}")
