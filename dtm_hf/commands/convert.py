"""Conversion of official F5-TTS checkpoints into pipeline folders."""

from pathlib import Path

import typer

from dtm_hf.files import folder_written_aside

from .console import ArgumentError, quiet_libraries, say_note, stderr


def convert_f5(
    checkpoint: str,
    vocab: str,
    output: Path,
    *,
    variant: str = "v1_base",
    vocoder: str | None = None,
    revision: str | None = None,
    license: str = "cc-by-nc-4.0",
) -> None:
    """Write the pipeline folder `output`, whole or not at all. It has no head and samples as F5-TTS does: 32 steps."""
    for name, path in (("CHECKPOINT", checkpoint), ("VOCAB", vocab)):
        if not path.startswith("hf://") and not Path(path).expanduser().is_file():
            raise ArgumentError(f"`{name}` {path!r} is no file; give a local path or hf://org/repo/path.")
    quiet_libraries()
    with folder_written_aside(output) as folder, stderr.status("Importing the libraries") as status:
        from dtm_hf.backbone.f5_checkpoint import resolve_file, variant_config

        try:
            variant_config(variant)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        import dtm_hf

        status.update(f"Reading {checkpoint}")
        vocab_file = resolve_file(_local(vocab), revision=revision)
        tokenizer = dtm_hf.F5Tokenizer(vocab_file)
        backbone = dtm_hf.F5Backbone.from_f5_checkpoint(
            _local(checkpoint), vocab=vocab_file, variant=variant, revision=revision, license=license
        )
        if vocoder is None:
            spectrum_inverter = dtm_hf.GriffinLimVocoder()
        else:
            status.update(f"Reading {vocoder}")
            spectrum_inverter = dtm_hf.VocosVocoder.from_vocos_checkpoint(_local(vocoder))
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


def _local(path: str) -> str:
    """A path with its `~` resolved; names on the Hub hold none."""
    return str(Path(path).expanduser()) if path.startswith("~") else path
