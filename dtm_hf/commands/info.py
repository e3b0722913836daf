"""What a pipeline is made of."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from dtm_hf.scheduling.solvers import effective_solver

from .models import ANY_KIND, load_pipeline, model_voices, pipeline_kind

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from dtm_hf import DTMHeadConfig, DTMPipeline, SpeechT5Pipeline, TRMPipeline


def show_info(model: str, revision: str | None = None, local_files_only: bool = False, graphs: bool = False) -> None:
    """Print the parts of the pipeline `model` and how it samples; with `graphs`, what it is exported as."""
    kind = pipeline_kind(model, revision, local_files_only)
    # Forced: this is where a user looks up why a head does not fit its backbone.
    forced = {"force_head": True} if kind == "DTMPipeline" else {}
    pipeline = load_pipeline(
        model, kinds=ANY_KIND, device="cpu", revision=revision, local_files_only=local_files_only, **forced
    )
    # Names and licences are data, whatever brackets they hold.
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(_parts(pipeline, title=f"{type(pipeline).__name__} {model}"))
    if kind in _OTHER_FACTS:
        console.print(_OTHER_FACTS[kind](pipeline))
    else:
        console.print(_facts(pipeline, model_voices(model, revision, local_files_only)))
    if graphs:
        _print_graphs(pipeline)


def _print_graphs(pipeline: "DiffusionPipeline") -> None:
    """Markdown, as docs/speecht5.md holds it."""
    from dtm_hf.ports.ported import Ported
    from dtm_hf.ports.recipes import recipe_of
    from dtm_hf.ports.tables import architecture

    for name, component in pipeline.components.items():
        if isinstance(component, Ported) or recipe_of(name, component) is not None:
            typer.echo("\n".join(["", f"## {name}", "", *architecture(name, component)]))


def _facts_of_speecht5(pipeline: "SpeechT5Pipeline") -> Table:
    config = pipeline.model.config
    names = list(pipeline.speakers.vectors) if pipeline.speakers is not None else []
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers of width {config.hidden_size}"
    table.add_row("model", f"{layers}, {config.reduction_factor} frames a step")
    table.add_row("audio", f"{pipeline.sampling_rate} Hz, {config.num_mel_bins} mel bins")
    table.add_row("", f"chunks of at most {config.max_text_positions} tokens")
    table.add_row("speakers", f"embeddings of {config.speaker_embedding_dim} numbers")
    if names:
        table.add_row("voices", ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else ""))
    table.add_row("vocabulary", f"{config.vocab_size} tokens")
    return table


def _facts_of_codes(pipeline: "TRMPipeline") -> Table:
    from dtm_hf.frontend.text_normalizer import describe_normalizer

    model, codec, sampling = pipeline.model.config, pipeline.codec.config, pipeline.scheduler.config
    longest = model.max_audio_frames / codec.frame_rate
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in (
        ("network", f"{model.num_layers} blocks of width {model.audio_dim}, {model.update} update"),
        ("H", f"{sampling.num_inference_steps} cycles, trained with up to {model.h_cycles}"),
        ("L", f"{model.l_cycles} updates of the latent a cycle"),
        ("codes", f"{model.num_codebooks} codebooks of {model.codebook_size}, {codec.frame_rate:g} frames a second"),
        ("", _how_codes_are_found(pipeline)),
        ("lengths", pipeline.describe_lengths()),
        ("audio", f"{codec.sampling_rate} Hz, {type(pipeline.codec).__name__}"),
        ("", f"chunks of at most {longest:g} s and {model.max_text_length} characters"),
        ("numbers", describe_normalizer(pipeline.text_normalizer)),
        ("vocabulary", f"{pipeline.tokenizer.vocab_size} tokens"),
        ("voices", ", ".join(model.speakers)),
        ("data", model.training_data or "not recorded"),
    ):
        table.add_row(name, text)
    return table


def _how_codes_are_found(pipeline: "TRMPipeline") -> str:
    model = pipeline.model.config
    if model.latent_dim is not None:
        return f"as latents of {model.latent_dim}, drawn at the end by a head of {pipeline.head.num_parameters():,}"
    if not model.feedback:
        return "cycles see none, all are drawn at the end"
    silent = pipeline.scheduler.config.silent_share
    return "cycles see what is decided" + (f", the first {silent:.0%} decide nothing" if silent > 0 else "")


# What is said of kinds of pipelines beside `DTMPipeline`.
_OTHER_FACTS = {"SpeechT5Pipeline": _facts_of_speecht5, "TRMPipeline": _facts_of_codes}


def _guidance(config: "DTMHeadConfig") -> str:
    if config.guidance_scale is None:
        return "at inference, both branches"
    if config.guidance_scale_range is None:
        return f"{config.guidance_scale:g}, baked into the head: one branch"
    low, high = config.guidance_scale_range
    return f"{low:g} to {high:g}, by default {config.guidance_scale:g}, baked into the head: one branch"


def _when(config: "DTMHeadConfig") -> str:
    """When a head that says what guidance adds has something to say."""
    known = "" if config.mean_mel is None else " but not at t = 0, where guidance is a closed form"
    return f"those before t = {config.guidance_end:g}{known}"


def _parts(pipeline: "DiffusionPipeline", title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("class", overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("stored as")
    table.add_column("licence")
    for name, part in pipeline.components.items():
        count = _num_parameters(part)
        licence = getattr(part.config, "license", None) if name in ("backbone", "head", "model") and part else None
        table.add_row(
            name,
            "none" if part is None else type(part).__name__,
            f"{count:,}" if count else "",
            _stored_dtype(part) if count else "",
            licence or "",
        )
    table.add_row("total", "", f"{sum(map(_num_parameters, pipeline.components.values())):,}", "", "", style="bold")
    return table


def _facts(pipeline: "DTMPipeline", voices: dict) -> Table:
    from dtm_hf.backbone.fingerprint import other_backbone
    from dtm_hf.frontend.duration_prediction import describe_lengths
    from dtm_hf.frontend.text_normalizer import describe_normalizer
    from dtm_hf.pipelines.chunking import MAX_TOTAL_SECONDS

    backbone, head, sampling = pipeline.backbone, pipeline.head, pipeline.scheduler.config
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def add(name: str, *values: str | None, style: str | None = None) -> None:
        text = ", ".join(value for value in values if value)
        table.add_row(name, text, style=style)

    add("backbone", backbone.config.name, backbone.config.revision and f"revision {backbone.config.revision}")
    add("", f"fingerprint {backbone.fingerprint}")
    add("", f"{backbone.config.depth} blocks of width {backbone.config.dim}, {backbone.config.mel_dim} mel bins")
    if backbone.config.step_counts is not None:
        add("student", f"of {', '.join(map(str, backbone.config.step_counts))} steps", "no guidance pass")
    elif head is None:
        add("head", "none: F5-TTS's own sampling")
    else:
        config = head.config
        add("head", f"{config.prediction} prediction", f"{config.architecture} architecture")
        add(
            "",
            f"trained on {config.backbone_name or 'a backbone not recorded'}",
            config.backbone_revision and f"revision {config.backbone_revision}",
        )
        if config.backbone_fingerprint is None:
            add("", "fingerprint of its backbone not recorded", style="yellow")
        elif other_backbone(config, backbone) is None:
            add("", f"fingerprint {config.backbone_fingerprint}: this backbone")
        else:
            add("", f"fingerprint {config.backbone_fingerprint}: NOT this backbone", style="red")
        add("guidance", _guidance(config))
    add("T", f"{sampling.num_inference_steps} global steps", f"{sampling.time_grid} grid", _sway(sampling))
    if head is not None:
        calls = sampling.num_head_steps
        solver = effective_solver(sampling.head_solver, calls)
        add("head steps", f"{calls} call{'' if calls == 1 else 's'} a global step", solver)
        if calls and head.config.prediction == "guidance":
            scheduler, guidance = pipeline.choose()
            times = scheduler.timesteps.tolist()
            add("", f"in {sum(map(guidance.runs_head, times))} of {len(times)} steps", _when(head.config))
    add("lengths", describe_lengths(pipeline.duration_predictor))
    add("audio", f"{pipeline.vocoder.sampling_rate} Hz", type(pipeline.vocoder).__name__)
    add("", f"chunks of at most {backbone.config.max_seconds or MAX_TOTAL_SECONDS:g} s with their prompt")
    add("numbers", describe_normalizer(pipeline.text_normalizer))
    add("vocabulary", f"{pipeline.tokenizer.vocab_size} tokens")
    if pipeline.tokenizer.words is not None:
        add("words", f"{len(pipeline.tokenizer.words)}, and no others: {', '.join(sorted(pipeline.tokenizer.words))}")
    if voices:
        add("voices", *voices)
    return table


def _sway(sampling) -> str | None:
    return f"sway coefficient {sampling.sway_coefficient:g}" if sampling.time_grid != "uniform" else None


def _num_parameters(part) -> int:
    if hasattr(part, "manifest"):
        # A port has graphs in the place of parameters.
        return part.manifest.num_parameters
    return sum(parameter.numel() for parameter in part.parameters()) if hasattr(part, "parameters") else 0


def _stored_dtype(part) -> str:
    """Types of the weights in the files, which loading converts; those in memory where the files are unknown."""
    from safetensors import safe_open

    if hasattr(part, "manifest"):
        return f"{part.manifest.export_format}, {part.manifest.weights}"
    dtypes = set()
    for file in sorted(Path(str(getattr(part.config, "_name_or_path", ""))).glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            dtypes |= {weights.get_slice(name).get_dtype() for name in weights.keys()}
    return ", ".join(sorted(dtypes)) or str(part.dtype).removeprefix("torch.")
