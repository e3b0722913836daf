"""Training configurations: what a file and the command line may say, and what is refused before anything loads."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml

from dtm_hf.training.systems import SYSTEMS, parse_config

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
MINIMAL = "model:\n  base_model: some/pipeline\ndata:\n  dataset: corpus\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


def test_defaults_file_and_command_line_in_rising_order(write):
    argv = write(MINIMAL + "  max_samples: 7\noptimization:\n  max_steps: 50\n  learning_rate: 1e-3\n")
    config = parse_config(argv)
    assert (config.data.max_samples, config.optimization.max_steps) == (7, 50)
    # YAML reads 1e-3 as a string.
    assert config.optimization.learning_rate == 0.001
    assert config.data.text_column == "text" and config.objective.frac_lengths_mask == [0.7, 1.0]
    overrides = ["--max_steps", "9", "--learning_rate=2e-4", "--resume", "false", "--frac_lengths_mask", "0.5", "0.6"]
    config = parse_config(argv + overrides)
    assert (config.data.max_samples, config.optimization.max_steps) == (7, 9)
    assert config.optimization.learning_rate == 2e-4 and config.logging.resume is False
    assert config.objective.frac_lengths_mask == [0.5, 0.6]
    assert parse_config(argv).objective.frac_lengths_mask == [0.7, 1.0]


def test_no_file_at_all():
    config = parse_config(["--dataset", "corpus", "--f5_checkpoint", "model.pt"])
    assert (config.data.dataset, config.model.f5_checkpoint) == ("corpus", "model.pt")


def test_none_in_a_file(write):
    config = parse_config(write(MINIMAL + "  speaker_column: null\n  validation_split: null\n"))
    assert config.data.speaker_column is None and config.data.validation_split is None


def test_a_list_or_none_in_a_file(write):
    text = MINIMAL + "objective:\n  baked_guidance_scale: 2\n  baked_guidance_range: {}\n"
    assert parse_config(write(text.format("[1, 3.0]"))).objective.baked_guidance_range == [1.0, 3.0]
    assert parse_config(write(text.format("null"))).objective.baked_guidance_range is None
    for wrong, message in {"3": "must be a list, but got 3", "[a, 3]": "must be of type float, but got 'a'"}.items():
        with pytest.raises(ValueError, match=rf"objective\.baked_guidance_range {message}"):
            parse_config(write(text.format(wrong)))


def test_an_option_is_the_same_in_all_sections_that_have_it():
    """They share one flat command line."""
    config = parse_config(["--dataset", "corpus", "--base_model", "b"])
    common = [getattr(config, name) for name in ("model", "data", "optimization", "logging")]
    names = [field.name for section in common for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))
    seen = {}
    for system in SYSTEMS.values():
        for field in dataclasses.fields(system.section):
            assert field.name not in names
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            said = (field.type, default, dict(field.metadata))
            assert seen.setdefault(field.name, said) == said, field.name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    assert parse_config(["--config", str(path)]).data.all_sources()


# Where the keys of the objectives stood before each had a section of its own.
@pytest.mark.parametrize("place", ["model", "objective", "optimization", "images"])
@pytest.mark.parametrize("name", ["dtm_tiny", "flow_matching_tiny", "tdm_tiny", "tdm_sdxl"])
def test_a_flat_file_says_the_same(write, name, place):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    own = content.pop(content["model"]["objective"])
    assert own
    content[place] = content.get(place, {}) | own
    assert parse_config(write(yaml.safe_dump(content))) == parse_config(["--config", str(CONFIGS / f"{name}.yaml")])


def test_options_of_another_objective_change_nothing(write):
    """A file, or a command, that serves several objectives."""
    text = MINIMAL + "tdm:\n  lora_rank: 4\n"
    assert parse_config(write(text)) == parse_config(write(MINIMAL))
    argv = [*write(MINIMAL), "--backbone_dim", "64", "--resolution", "512", "--lora_rank", "4"]
    assert parse_config(argv) == parse_config(write(MINIMAL))
    with pytest.raises(ValueError, match="`lora_rank` must be greater than 0, but got 0"):
        parse_config([*write(MINIMAL), "--lora_rank", "0"])


def test_the_help_tells_whose_an_option_is(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    groups = {}
    for line in capsys.readouterr().out.splitlines():
        if line[:1].strip() and line.endswith(":"):
            options = groups.setdefault(line[:-1], [])
        elif line.startswith("  --"):
            options.append(line.split()[0].rstrip(","))
    assert "--backbone_dim" in groups["flow_matching"]
    owners = next(name for name, options in groups.items() if "--license" in options)
    assert {"flow_matching", "codec", "trm"} <= set(owners.split(", "))
    assert "--head_hidden_size" in groups["dtm, trm_latents"] and "--resolution" in groups["tdm_image"]
    assert "--lora_rank" in groups["tdm, tdm_head, tdm_image"]
    assert "--prompt_loss" in groups["dtm, flow_matching, tdm, tdm_head"]


def test_two_sections_that_say_different_things(write):
    text = MINIMAL + "dtm:\n  t_min: 1\nobjective:\n  t_min: {}\n"
    assert parse_config(write(text.format(1))).objective.t_min == 1
    with pytest.raises(ValueError, match=r"objective\.t_min is 2, but another section says 1"):
        parse_config(write(text.format(2)))


# Each list has nine times the one before: written out, billions of letters.
LISTS = [f"&{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in itertools.pairwise("abcdefghijk")]
LAUGHS = f"model: {{base_model: [&a x, {', '.join(LISTS)}]}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimization:\n  learning_rte: 1.0\n",
            r"unknown key optimization\.learning_rte; did you mean 'learning_rate'",
        ),
        ("optimisation:\n  max_steps: 1\n", "unknown section 'optimisation'; did you mean 'optimization'"),
        ("model:\n  zzz: 1\n", r"unknown key model\.zzz; valid names: .*base_model"),
        ("optimization:\n  max_steps: many\n", r"optimization\.max_steps must be of type int, but got 'many'"),
        ("optimization:\n  max_steps: 1.5\n", r"optimization\.max_steps must be of type int, but got 1\.5"),
        ("optimization:\n  max_steps: true\n", r"optimization\.max_steps must be of type int, but got True"),
        (
            "optimization:\n  learning_rate: fast\n",
            r"optimization\.learning_rate must be of type float, but got 'fast'",
        ),
        ("data:\n  speaker_column: 3\n", r"data\.speaker_column must be of type str or none, but got 3"),
        ("objective:\n  frac_lengths_mask: 0.7\n", r"objective\.frac_lengths_mask must be a list, but got 0\.7"),
        (
            "objective:\n  frac_lengths_mask: [a, 1]\n",
            r"objective\.frac_lengths_mask must be of type float, but got 'a'",
        ),
        ("- model\n", "expected a mapping of sections, but got list"),
        ("0\n", "expected a mapping of sections, but got int"),
        ("model:\n  - base_model\n", r"config.yaml: section model must be a mapping, but got \['base_model'\]"),
        ("model: 3\n", "section model must be a mapping, but got 3"),
        ("model: []\n", r"section model must be a mapping, but got \[\]"),
        ("model:\n  base_model: [a\ndata: b\n", r"config\.yaml: line 3, column 5: it is no YAML: "),
        ("model:\n\tbase_model: a\n", r"line 2, column 1: it is no YAML: found character '\\t'"),
        (
            "model: !!python/object/apply:os.system [id]\n",
            "line 1, column 8: it is no YAML: could not determine a cons",
        ),
        ("model: " + "[" * 5000, "it is no YAML: "),
        ("model:\n  base_model: 2026-13-13\n", "it is no YAML: month must be in 1"),
        ("3: {}\n", "unknown section 3"),
        ("model:\n  7: 1\n", "unknown key model.7"),
        (LAUGHS, r"model.base_model must be of type str or none, but got \['x', \['x'"),
    ],
)
def test_what_a_file_may_not_say(write, text, message):
    with pytest.raises(ValueError, match=message):
        parse_config(write(text))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"model:\n  base_model: \xff\n")
    with pytest.raises(ValueError, match=r"config\.yaml: it is no YAML: 'utf-8' codec can't decode"):
        parse_config(["--config", str(tmp_path / "config.yaml")])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rte", "1"], "--learning_rte; did you mean 'learning_rate'"),
        (["--learning_rte=1"], "--learning_rte=1; did you mean 'learning_rate'"),
        # A prefix is a slip, not a name.
        (["--max_step", "1"], "--max_step; did you mean 'max_steps'"),
        (["--max_steps", "many"], "max_steps.*'many'"),
        (["--max_steps"], "max_steps.*expected one argument"),
        (["--config", "nowhere.yaml"], "`--config`.*'nowhere.yaml'"),
    ],
)
def test_what_the_command_line_may_not_say(argv, message):
    with pytest.raises(ValueError, match=message):
        parse_config(["--dataset", "corpus", "--base_model", "b", *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--objective", "flow_match"],
            r"`objective`.*'dtm', 'flow_matching'.*'flow_match'; did you mean 'flow_matching'",
        ),
        (["--head_solver", "rk4"], "`head_solver`.*'rk4'"),
        (["--max_steps", "0"], "`max_steps` must be greater than 0, but got 0"),
        (["--learning_rate", "nan"], "`learning_rate`.*nan"),
        (["--warmup_steps", "-1"], "`warmup_steps` must be at least 0, but got -1"),
        (["--pair_probability", "1.5"], r"`pair_probability` must lie in \[0, 1\], but got 1\.5"),
        (["--frac_lengths_mask", "0.9", "0.5"], "`frac_lengths_mask`.*0.9, 0.5"),
        (["--frac_lengths_mask", "0.9"], "`frac_lengths_mask`.*two shares"),
        (["--t_min", "8"], r"`t_min`.*8 of 8"),
        (["--num_head_steps", "3"], "`num_head_steps` must be even.*'midpoint'.*3"),
        (["--num_head_steps", "-2"], "`num_head_steps`.*-2"),
        (["--min_seconds", "40"], r"`min_seconds`.*40\.0 of 30\.0"),
        (["--min_seconds", "0"], r"`min_seconds`.*0\.0"),
        (["--baked_guidance_scale", "0.5"], r"`baked_guidance_scale` must be greater than 1.*0\.5"),
        (["--baked_guidance_end", "1.5"], r"`baked_guidance_end`.*1\.5"),
        (["--baked_guidance_range", "1", "3"], r"`baked_guidance_range`.*\[1.0, 3.0\] and None"),
        (["--baked_guidance_scale", "2", "--baked_guidance_range", "3", "4"], r"`baked_guidance_range`.*\[3.0, 4.0\]"),
        (["--baked_guidance_scale", "2", "--baked_guidance_range", "0", "4"], r"`baked_guidance_range`.*\[0.0, 4.0\]"),
        (["--f5_checkpoint", "model.pt"], "exactly one of `base_model` and `f5_checkpoint`"),
        (["--objective", "flow_matching"], "`t_sampling`.*flow_matching.*'grid'"),
        (["--dataset", ""], "`dataset`"),
    ],
)
def test_impossible_values(argv, message):
    with pytest.raises(ValueError, match=message):
        parse_config(["--dataset", "corpus", "--base_model", "b", *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--step_counts", "5"], r"`step_counts` must be different numbers of steps from 1 to 4, but got \[5\]"),
        (["--step_counts", "0", "4"], r"`step_counts`.*\[0, 4\]"),
        (["--step_counts", "4", "4"], r"`step_counts`.*\[4, 4\]"),
        # Half-precision parameters are never optimised, be it by a scaler or without.
        (["--mixed_precision", "fp16"], "`mixed_precision` must be 'no' or 'bf16', but got 'fp16'"),
        (["--full_parameters", "true", "--backbone_dtype", "bfloat16"], "`backbone_dtype` must be 'float32' with"),
        (["--weight_type", "linear"], r"`weight_type` must be one of \('constant', 'snr', 'min_snr'\).*'linear'"),
        (["--weight_type", "min-snr"], "`weight_type`.*did you mean 'min_snr'"),
        (["--huber_scale", "0"], "`huber_scale` must be greater than 0"),
        (["--update_estimator_every", "0"], "`update_estimator_every` must be greater than 0"),
        (["--estimator_updates", "0"], "`estimator_updates` must be greater than 0"),
        (["--teacher_guidance_scale", "0.5"], "`teacher_guidance_scale` must be at least 1.*0.5"),
        (["--teacher_guidance_end", "2"], r"`teacher_guidance_end` must lie in \[0, 1\]"),
        (["--lora_rank", "0"], "`lora_rank` must be greater than 0"),
        (["--lora_alpha", "-1"], "`lora_alpha` must be greater than 0, or none"),
        (["--estimator_learning_rate", "0"], "`estimator_learning_rate` must be greater than 0, or none"),
        (["--optimizer", "muon"], "`optimizer` must be one of AdamW for adapters, but got 'muon'"),
        (["--torch_compile", "true"], "`torch_compile` must be off"),
        (["--time_grid", "epss"], "`time_grid` must be 'sway' or 'uniform' for a student"),
        (["--f5_checkpoint", "model.pt"], "The tdm objective needs exactly one of `base_model` and `f5_checkpoint`"),
    ],
)
def test_impossible_distillations(argv, message):
    with pytest.raises(ValueError, match=message):
        parse_config(["--objective", "tdm", "--dataset", "corpus", "--base_model", "b", *argv])


def test_pairs_need_to_know_the_speaker(write):
    with pytest.raises(ValueError, match="`pair_probability`.*`speaker_column`"):
        parse_config(write(MINIMAL + "  speaker_column: null\n  pair_probability: 0.5\n"))


def test_an_odd_number_of_euler_calls_is_possible():
    argv = ["--dataset", "corpus", "--base_model", "b", "--num_head_steps", "3", "--head_solver", "euler"]
    assert parse_config(argv).objective.num_head_steps == 3
