"""
What a distillation of images leaves behind: a LoRA, or a whole pipeline, that plain diffusers samples in few steps.

    folder/pytorch_lora_weights.safetensors     for pipe.load_lora_weights(folder)
    folder/scheduler/scheduler_config.json      walks the student's grid
    folder/student.json                         what it was made of
    folder/README.md                            how to sample with it

A student of several numbers of steps is told which by a learned constant in its embedding of t. Plain diffusers has no
such input, but a LoRA may have biases: the constant of K steps is one of a layer. So such a student is saved once for
each K, in `folder/steps-K`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from dtm_hf.backbone.low_rank import LORA_A, LORA_B, NUM_STEPS_EMBED
from dtm_hf.files import written_aside
from dtm_hf.training.images.models import ImageModel
from dtm_hf.training.objectives.adapters import AdapterNetworks

LORA_FILE = "pytorch_lora_weights.safetensors"
STUDENT_FILE = "student.json"
_EMBED = f"{NUM_STEPS_EMBED}.weight"


def save_lora(folder: str | Path, model: ImageModel, adapters: AdapterNetworks, about: dict) -> None:
    """
    Save the student as it is now.

    Args:
        folder (`str` or `Path`): complete files in it are replaced one by one.
        model ([`ImageModel`]): whose denoiser has the adapters.
        adapters ([`AdapterNetworks`]): of that denoiser.
        about (`dict`): goes into `student.json` and the card: `base_model` and what else is of interest.

    Raises:
        ValueError: if the student has parameters of its own in place of adapters.
    """
    if adapters.full_parameters:
        raise ValueError("`adapters` must be adapters, but got full parameters: save the pipeline.")
    folder, counts = Path(folder), adapters.step_counts
    state = adapters.state("student")
    embed = state.pop(_EMBED, None)
    for count in counts:
        place = folder if len(counts) == 1 else folder / f"steps-{count}"
        factors = state if embed is None else state | _as_biases(state, model.time_layer, embed[count - 1])
        _save_factors(place, model, adapters, factors, with_biases=embed is not None)
        _save_beside(place, model, (count,), adapters, about)
    if len(counts) > 1:
        _save_beside(folder, model, counts, adapters, about)


def load_lora(folder: str | Path, model: ImageModel, adapters: AdapterNetworks, revision: str | None = None) -> None:
    """
    Take up a student that [`save_lora`] wrote, in a folder or on the Hub. One of a single number of steps may go on
    with several.

    Raises:
        ValueError: if there is none in the folder, or its layers, rank or shapes are others.
    """
    folder, prefix = _local_folder(folder, revision), f"{model.denoiser_name}."
    group = adapters.parameters("student")
    state: dict[str, torch.Tensor] = {}
    if _EMBED in group:
        state[_EMBED] = torch.zeros_like(group[_EMBED])
    for count in adapters.step_counts:
        place = next((path for path in (folder / f"steps-{count}", folder) if (path / LORA_FILE).is_file()), None)
        if place is None or not (place / STUDENT_FILE).is_file():
            raise ValueError(
                f"`init_from` must be a folder with {LORA_FILE} and {STUDENT_FILE} for {count} steps, but got "
                f"{str(folder)!r}."
            )
        factors = {name.removeprefix(prefix): value for name, value in load_file(place / LORA_FILE).items()}
        bias = factors.get(f"{model.time_layer}.{LORA_B}.bias")
        if bias is not None:
            if _EMBED not in state:
                raise ValueError("`step_counts` must be several, as those of `init_from`, but got one.")
            state[_EMBED][count - 1] = bias * adapters.alpha / adapters.rank
        own = {n: v for n, v in factors.items() if n.endswith(".weight") and not n.startswith(f"{model.time_layer}.")}
        state |= own
    alpha = json.loads((place / STUDENT_FILE).read_text())["lora_alpha"]
    if alpha != adapters.alpha:
        raise ValueError(f"`lora_alpha` must be that of `init_from`, {alpha}, but got {adapters.alpha}.")
    try:
        adapters.load_state(state, "student")
    except ValueError as error:
        raise ValueError(f"`init_from` {str(folder)!r} does not fit this base model. {error}") from error


def _local_folder(name: str | Path, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=[f"*{LORA_FILE}", f"*{STUDENT_FILE}"])
        )
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise ValueError(f"`init_from` must be a folder or a Hub name, but got {str(name)!r}: {error}") from error


def save_merged(folder: str | Path, model: ImageModel, adapters: AdapterNetworks, about: dict) -> None:
    """
    Save the whole pipeline with the student's weights in place of the teacher's and the student's scheduler; of a
    student of several numbers of steps, one pipeline for each in `folder/steps-K`.

    Needs memory for one more denoiser, on the CPU.
    """
    folder, counts = Path(folder), adapters.step_counts
    embed = adapters.state("student").get(_EMBED)
    for count in counts:
        place = folder if len(counts) == 1 else folder / f"steps-{count}"
        weights = {name: value.cpu() for name, value in adapters.merged_state_dict("student").items()}
        if embed is not None:
            bias = f"{model.time_layer}.bias"
            weights[bias] = (weights[bias].float() + embed[count - 1].cpu()).to(weights[bias].dtype)
        with _swapped(model, _plain_denoiser(model, weights)) as pipeline:
            pipeline.save_pretrained(place)
        _save_beside(place, model, (count,), adapters, about, merged=True)


def _as_biases(state: dict[str, torch.Tensor], layer: str, constant: torch.Tensor) -> dict[str, torch.Tensor]:
    """Biases for all layers, of which one is not 0, and the factors, of 0, that a LoRA of that layer has to have."""
    factors = {name.replace(".weight", ".bias"): torch.zeros(len(b)) for name, b in state.items() if LORA_B in name}
    rank = next(len(a) for name, a in state.items() if LORA_A in name)
    size = len(constant)
    factors[f"{layer}.{LORA_A}.weight"] = torch.zeros(rank, size)
    factors[f"{layer}.{LORA_B}.weight"] = torch.zeros(size, rank)
    factors[f"{layer}.{LORA_B}.bias"] = constant
    return factors


def _save_factors(
    folder: Path, model: ImageModel, adapters: AdapterNetworks, factors: dict[str, torch.Tensor], with_biases: bool
) -> None:
    name, scale = model.denoiser_name, adapters.alpha / adapters.rank
    # peft multiplies the bias as well.
    factors = {n: value / scale if n.endswith(".bias") else value for n, value in factors.items()}
    metadata = {
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "lora_bias": with_biases,
        "target_modules": sorted({n.partition(f".{LORA_A}.")[0] for n in factors if LORA_A in n}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(folder / LORA_FILE) as aside:
        type(model.pipeline).save_lora_weights(
            str(folder),
            weight_name=aside.name,
            **{
                f"{name}_lora_layers": {n: value.cpu().contiguous() for n, value in factors.items()},
                f"{name}_lora_adapter_metadata": metadata,
            },
        )


def _save_beside(
    folder: Path,
    model: ImageModel,
    counts: tuple[int, ...],
    adapters: AdapterNetworks,
    about: dict,
    merged: bool = False,
) -> None:
    """The scheduler, `student.json` and the card."""
    from dtm_hf.training.images.cards import card

    model.sampling_scheduler().save_pretrained(folder / "scheduler")
    facts = {
        "pipeline_class": model.pipeline_class,
        "step_counts": list(counts),
        "resolution": model.resolution,
        "call_arguments": {str(count): model.call_arguments(count) for count in counts},
        "lora_rank": adapters.rank,
        "lora_alpha": adapters.alpha,
    } | about
    with written_aside(folder / STUDENT_FILE) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with written_aside(folder / "README.md") as aside:
        aside.write_text(card(facts, type(model.sampling_scheduler()).__name__, merged), encoding="utf-8")


def _plain_denoiser(model: ImageModel, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        denoiser = type(model.denoiser).from_config(model.denoiser.config)
    denoiser.load_state_dict(weights, assign=True)
    return denoiser


@contextmanager
def _swapped(model: ImageModel, denoiser: torch.nn.Module) -> Iterator:
    """Inside, the pipeline has another denoiser, and the scheduler of the student."""
    own = {model.denoiser_name: model.denoiser, "scheduler": model.pipeline.scheduler}
    model.pipeline.register_modules(**{model.denoiser_name: denoiser, "scheduler": model.sampling_scheduler()})
    try:
        yield model.pipeline
    finally:
        model.pipeline.register_modules(**own)
