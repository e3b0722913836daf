"""Reads a training configuration from YAML and the command line, and refuses what cannot be."""

import difflib
import typing
from argparse import ArgumentError
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import yaml

from dtm_hf.scheduling.solvers import HEAD_SOLVERS, effective_solver
from dtm_hf.training.config.arguments import SECTIONS, DataArguments, TrainingConfig

_CHOICES = {
    "objective": ("dtm", "flow_matching", "tdm", "tdm_image"),
    "f5_variant": ("v1_base", "v1_small", "base", "small"),
    "head_architecture": ("mlp", "conv"),
    "head_prediction": ("residual", "direct"),
    "t_sampling": ("grid", "uniform", "sway", "sway_twice", "logit_normal"),
    "s_sampling": ("uniform", "logit_normal"),
    "head_solver": HEAD_SOLVERS,
    "time_grid": ("sway", "uniform", "epss"),
    "weight_type": ("constant", "snr", "min_snr"),
    "lr_scheduler": ("cosine", "linear", "constant_with_warmup", "warmup_stable_decay"),
    "backbone_dtype": ("float32", "bfloat16"),
    "optimizer": ("adamw", "adamw_8bit", "muon"),
    "mixed_precision": ("no", "bf16"),
    "report_to": ("tensorboard", "wandb", "none"),
}
_FORMATS = ("parquet", "webdataset", "audiofolder", "imagefolder", "f5")
# They describe the one `dataset`; `sources` has each for itself.
_SHORT_FORM = "dataset_format dataset_config dataset_revision audio_column text_column speaker_column".split()
_POSITIVE = (
    "backbone_dim backbone_depth backbone_heads backbone_ff_mult backbone_text_dim head_hidden_size head_num_layers "
    "max_seconds frames_per_batch max_samples frame_multiple bucket_size head_batch_multiplier min_loss_remainder "
    "num_inference_steps max_steps learning_rate max_grad_norm gradient_accumulation_steps log_interval "
    "eval_interval sample_interval save_interval save_total_limit lora_rank huber_scale update_estimator_every "
    "estimator_updates resolution images_per_batch max_sequence_length teacher_steps"
).split()
_NOT_NEGATIVE = (
    "backbone_conv_layers num_head_steps warmup_steps decay_steps weight_decay num_workers num_validation_batches "
    "embedded_guidance_scale"
).split()
_SHARES = (
    "pair_probability max_bad_fraction pair_target_prob audio_drop_prob cond_drop_prob ema_decay backbone_dropout "
    "adam_beta2 mean_draw_prob baked_guidance_end teacher_guidance_end"
).split()


def parse_config(argv: list[str]) -> TrainingConfig:
    """
    Read `--config FILE.yaml` and the `--field value` overrides that follow it.

    Raises:
        ValueError: for an unknown section or key (with the nearest valid name), a wrong type or an impossible value.
    """
    from transformers import HfArgumentParser

    description = "Train a flow head, a backbone from scratch, or a few-step student."
    parser = HfArgumentParser(list(SECTIONS.values()), description=description, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with one mapping per section: " + ", ".join(SECTIONS))
    parser.exit_on_error = False
    path = _config_path(argv)
    if path is not None:
        parser.set_defaults(**read_yaml(path))
    try:
        parsed = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    except ArgumentError as error:
        raise ValueError(f"Command line: {error}") from error
    sections, unknown = parsed[: len(SECTIONS)], [text for text in parsed[-1] if text.startswith("--")]
    if unknown:
        raise ValueError(
            f"Unknown option {unknown[0]}{_nearest(unknown[0].lstrip('-').split('=')[0], _field_types())}."
        )
    config = TrainingConfig(**dict(zip(SECTIONS, sections, strict=True)))
    check_values(config)
    return config


def _config_path(argv: list[str]) -> Path | None:
    for i, text in enumerate(argv):
        if text == "--config" and i + 1 < len(argv):
            return Path(argv[i + 1])
        if text.startswith("--config="):
            return Path(text.split("=", 1)[1])
    return None


def read_yaml(path: Path) -> dict[str, object]:
    """The flat fields of a configuration file, checked for section, name and type."""
    if not path.is_file():
        raise ValueError(f"`--config` must name a YAML file, but got {str(path)!r}.")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of sections, but got {type(content).__name__}.")
    values: dict[str, object] = {}
    for section, entries in content.items():
        if section not in SECTIONS:
            raise ValueError(f"{path}: unknown section {section!r}{_nearest(section, SECTIONS)}.")
        types = typing.get_type_hints(SECTIONS[section])
        for key, value in (entries or {}).items():
            if key not in types:
                raise ValueError(f"{path}: unknown key {section}.{key}{_nearest(key, types)}.")
            values[key] = _checked(f"{path}: {section}.{key}", value, types[key])
    return values


def _checked(name: str, value: object, expected: object) -> object:
    is_list = typing.get_origin(expected) is list
    accepted = (expected,) if is_list else typing.get_args(expected) or (expected,)
    lists = [kind for kind in accepted if typing.get_origin(kind) is list]
    if lists and not (value is None and type(None) in accepted):
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, but got {value!r}.")
        (kind,) = typing.get_args(lists[0])
        if is_dataclass(kind):
            return [_entry(f"{name}[{i}]", item, kind) for i, item in enumerate(value)]
        return [_checked(name, item, kind) for item in value]
    if float in accepted and isinstance(value, str):
        # YAML reads 1e-4, without a dot, as a string.
        try:
            value = float(value)
        except ValueError:
            pass
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in accepted:
        names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in accepted)
        raise ValueError(f"{name} must be of type {names}, but got {value!r}.")
    return value


def _entry(name: str, value: object, kind: type):
    """A dataclass from one entry of a list."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, but got {value!r}.")
    types = typing.get_type_hints(kind)
    for key in value:
        if key not in types:
            raise ValueError(f"{name}: unknown key {key!r}{_nearest(key, types)}.")
    for entry in fields(kind):
        if entry.name not in value and entry.default is MISSING:
            raise ValueError(f"{name} must have a {entry.name!r}, but got {value!r}.")
    return kind(**{key: _checked(f"{name}.{key}", item, types[key]) for key, item in value.items()})


def _check_sources(data: DataArguments) -> None:
    if bool(data.dataset) == bool(data.sources):
        given = f"{data.dataset!r} and {len(data.sources)} `sources`" if data.dataset else "neither"
        raise ValueError(f"`dataset` must name a folder or a Hub dataset, or `sources` list several, but got {given}.")
    defaults = DataArguments()
    for name in _SHORT_FORM:
        if data.sources and getattr(data, name) != getattr(defaults, name):
            raise ValueError(f"`{name}` belongs to `dataset`; with `sources`, give it in each of them.")
    for source in data.all_sources():
        if source.format is not None and source.format not in _FORMATS:
            raise ValueError(
                f"The format of {source.dataset!r} must be one of {_FORMATS}, but got {source.format!r}"
                f"{_nearest(source.format, _FORMATS)}."
            )
        if not 0 < source.weight < float("inf"):
            raise ValueError(f"`weight` of {source.dataset!r} must be greater than 0, but got {source.weight}.")
    if data.pair_probability > 0 and not any(source.speaker_column for source in data.all_sources()):
        raise ValueError("`pair_probability` joins clips of one speaker and needs a `speaker_column`, but got none.")


def check_values(config: TrainingConfig) -> None:
    """Refuse impossible values before anything is loaded."""
    values = {entry.name: getattr(getattr(config, s), entry.name) for s in SECTIONS for entry in fields(SECTIONS[s])}
    if values["mixed_precision"] == "fp16":
        raise ValueError(
            "`mixed_precision` must be 'no' or 'bf16', but got 'fp16': small updates would be lost and large ones "
            "overflow."
        )
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}, but got {values[name]!r}{_nearest(values[name], choices)}."
            )
    for name in _POSITIVE:
        if not values[name] > 0:
            raise ValueError(f"`{name}` must be greater than 0, but got {values[name]}.")
    for name in _NOT_NEGATIVE:
        if not values[name] >= 0:
            raise ValueError(f"`{name}` must be at least 0, but got {values[name]}.")
    for name in _SHARES:
        if not 0 <= values[name] <= 1:
            raise ValueError(f"`{name}` must lie in [0, 1], but got {values[name]}.")
    low_high = values["frac_lengths_mask"]
    if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1] <= 1:
        raise ValueError(f"`frac_lengths_mask` must be two shares 0 < low <= high <= 1, but got {low_high}.")
    _check_sources(config.data)
    if not 0 <= values["t_min"] < values["num_inference_steps"]:
        raise ValueError(
            f"`t_min` must lie in [0, num_inference_steps), but got {values['t_min']} "
            f"of {values['num_inference_steps']}."
        )
    effective_solver(values["head_solver"], values["num_head_steps"])
    # The spectrogram reflects 512 samples at both ends.
    if not 0.03 <= values["min_seconds"] < values["max_seconds"]:
        raise ValueError(
            f"`min_seconds` must lie in [0.03, max_seconds), but got {values['min_seconds']} of "
            f"{values['max_seconds']}."
        )
    baked = values["baked_guidance_scale"]
    if baked is not None and not baked > 1:
        raise ValueError(f"`baked_guidance_scale` must be greater than 1, or none for no guidance, but got {baked}.")
    bounds = values["baked_guidance_range"]
    if bounds is not None and (
        len(bounds) != 2 or baked is None or not (1 <= bounds[0] < bounds[1] and bounds[0] <= baked <= bounds[1])
    ):
        raise ValueError(
            "`baked_guidance_range` must be a lowest scale from 1 on and a highest one, with `baked_guidance_scale` "
            f"between, but got {bounds} and {baked}."
        )
    objective = values["objective"]
    if objective in ("dtm", "tdm") and (values["base_model"] is None) == (values["f5_checkpoint"] is None):
        raise ValueError(f"The {objective} objective needs exactly one of `base_model` and `f5_checkpoint`.")
    if values["objective"] == "flow_matching" and values["t_sampling"] == "grid":
        raise ValueError("`t_sampling` must be a distribution over [0, 1) for flow_matching, but got 'grid'.")
    if objective in ("tdm", "tdm_image"):
        _check_distillation(values)
    if objective == "tdm_image":
        _check_images(values)


def _check_distillation(values: dict) -> None:
    counts = values["step_counts"]
    if not counts or len(set(counts)) < len(counts) or not all(1 <= count <= 4 for count in counts):
        raise ValueError(f"`step_counts` must be different numbers of steps from 1 to 4, but got {counts}.")
    if values["time_grid"] == "epss":
        raise ValueError("`time_grid` must be 'sway' or 'uniform' for a student: 'epss' has no grids of 1 to 4 steps.")
    if not values["teacher_guidance_scale"] >= 1:
        raise ValueError(
            f"`teacher_guidance_scale` must be at least 1, which is no guidance, but got "
            f"{values['teacher_guidance_scale']}."
        )
    for name in ("lora_alpha", "estimator_learning_rate"):
        if values[name] is not None and not values[name] > 0:
            raise ValueError(f"`{name}` must be greater than 0, or none, but got {values[name]}.")
    if values["full_parameters"] and values["backbone_dtype"] != "float32":
        raise ValueError(
            f"`backbone_dtype` must be 'float32' with `full_parameters`, but got {values['backbone_dtype']!r}: "
            "parameters in half precision lose small updates. Adapters are float32 on any backbone."
        )
    if values["optimizer"] == "muon" and not values["full_parameters"]:
        raise ValueError(
            "`optimizer` must be one of AdamW for adapters, but got 'muon', which is made for whole weight matrices."
        )
    if values["torch_compile"]:
        raise ValueError("`torch_compile` must be off for tdm, but got True: adapters are switched on and off.")


def _check_images(values: dict) -> None:
    if values["base_model"] is None:
        raise ValueError("`base_model` must name a text-to-image pipeline of diffusers for tdm_image, but got none.")
    if values["grid_shift"] is not None and not values["grid_shift"] > 0:
        raise ValueError(f"`grid_shift` must be greater than 0, or none, but got {values['grid_shift']}.")
    if values["teacher_guidance_end"] != 1:
        raise ValueError(
            f"`teacher_guidance_end` must be 1.0 for tdm_image, but got {values['teacher_guidance_end']}: what time "
            "is late differs between schedules."
        )
    if values["init_from"] is not None and values["full_parameters"]:
        raise ValueError(
            f"`init_from` must be none with `full_parameters` for tdm_image, but got {values['init_from']!r}: a LoRA "
            "is what it takes up. Give a whole pipeline as `base_model`."
        )


def _field_types() -> dict[str, object]:
    return {name: kind for section in SECTIONS.values() for name, kind in typing.get_type_hints(section).items()}


def _nearest(name: object, valid) -> str:
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(sorted(valid))}"
