"""Files from outside: whatever is in them, loading ends in a sentence that names file and field, or in a pipeline."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import dtm_hf
from dtm_hf import DTMHead, DTMPipeline, F5Backbone, GriffinLimVocoder, VocosVocoder
from dtm_hf.reading import MAX_CONFIG_BYTES, read_json, read_yaml
from dtm_hf.validation import check_values

ASSET = Path(dtm_hf.__file__).parent / "assets" / "dtm-f5-voice"
CONFIGS = {str(path.relative_to(ASSET)): json.loads(path.read_text()) for path in sorted(ASSET.rglob("*.json"))}
# What a reader takes from each, beside notes for cards.
NOTES = {"results", "training_data", "license", "architectures", "name", "revision", "dtype", "model_type"}
NOTES |= {"backbone_fingerprint", "backbone_name", "backbone_revision", "base_model_revision", "transformers_version"}
NOTES |= {"backbone_sketch", "base_model", "feature_extractor_type", "padding_side", "return_attention_mask"}
# Any number will do, and any mapping: what a sampler holds is checked when a scheduler is made of it.
NOTES |= {"padding_value", "sampler"}
FIELDS = [
    (file, name) for file, content in CONFIGS.items() for name in content if name[0] != "_" and name not in NOTES
]
# Neither is a value of any of these fields, whatever its type is.
WRONG = [object, {"a": [1]}, -(10**9), 10**9, math.nan, ["x", "y", "z"]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(ASSET, folder)
    return folder


@pytest.fixture
def written(copy):
    """Writes another content of a file for the time of a test."""
    changed = []

    def write(file: str, content) -> Path:
        changed.append(file)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (copy / file).write_bytes(content)
        return copy

    yield write
    for file in changed:
        shutil.copy(ASSET / file, copy / file)


def load(folder: Path, file: str) -> None:
    """As far as it takes to read one of its files."""
    part = file.split("/")[0]
    if part == "student":
        dtm_hf.Student.from_pretrained(folder / part)
    elif part == "model_index.json":
        DTMPipeline.from_pretrained(folder)
    else:
        classes = CONFIGS["model_index.json"]
        getattr(dtm_hf, classes[part][1]).from_pretrained(folder / part)


@pytest.mark.parametrize(("file", "field"), FIELDS)
def test_a_wrong_value_of_any_field_is_refused_by_file_and_field(file, field, copy, written):
    for value in WRONG:
        content = dict(CONFIGS[file])
        if value is object:
            # A type of its own for each: a list where no list is wanted, text where no text is.
            value = "nonsense" if not isinstance(content[field], str) else 3
        with pytest.raises(ValueError) as caught:
            load(written(file, content | {field: value}), file)
        message = str(caught.value)
        assert field in message and str(copy / file.split("/")[0]) in message and "\n" not in message, message


@pytest.mark.parametrize("file", CONFIGS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_is_none_is_refused_by_its_name(file, content, copy, written):
    with pytest.raises((ValueError, OSError)) as caught:
        load(written(file, content), file)
    assert str(copy / file.split("/")[0]) in str(caught.value) or file in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("model_index.json", {"backbone": "F5Backbone"}, "`backbone` must be a library and a class"),
        ("model_index.json", {"head": ["dtm_hf", "F5Tokenizer"]}, "`head` must be of the class DTMHead"),
        ("model_index.json", {"head": ["dtm_hf", None]}, "`head` must be a library and a class"),
        ("model_index.json", {"mean_mel": [1.0]}, "`mean_mel` must be 100 finite numbers"),
        ("scheduler/scheduler_config.json", {"head_solver": "rk4"}, "`head_solver` must be 'midpoint'"),
        (
            "scheduler/scheduler_config.json",
            {"head_solver": "midpoint", "num_head_steps": 3},
            "`num_head_steps` must be even",
        ),
        ("backbone/config.json", {"step_counts": []}, "`step_counts` must be numbers of steps"),
        ("backbone/config.json", {"mel_dim": 80}, "mel_dim|size mismatch|shape"),
        ("feature_extractor/preprocessor_config.json", {"hop_length": 300}, "`vocoder` must read the mels"),
        ("feature_extractor/preprocessor_config.json", {"win_length": 2048}, "`win_length`"),
        ("vocoder/config.json", {"sampling_rate": 16000}, "`vocoder` must read the mels"),
        ("head/config.json", {"architecture": "mlp"}, "do not fit: the file (lacks|holds besides)"),
        ("head/config.json", {"num_hidden_layers": 2}, "as many `residual_layers` as `num_hidden_layers`"),
        ("head/config.json", {"guidance_scale_range": None}, "`guidance_scale_range` must be given"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(file, change, said, written):
    folder = written(file, CONFIGS[file] | change)
    with pytest.raises(ValueError, match=said):
        DTMPipeline.from_pretrained(folder)


def test_a_part_that_names_itself_as_its_base_is_refused(tmp_path):
    for part, names in {"head": ("model.safetensors",), "student": ("student.safetensors",)}.items():
        folder = tmp_path / part
        shutil.copytree(ASSET / part, folder)
        for base in (folder, ASSET / "head"):
            content = CONFIGS[f"{part}/config.json"] | {"base_model": str(base)}
            (folder / "config.json").write_text(json.dumps(content))
            with pytest.raises(ValueError, match="`base_model`, which must be a whole pipeline"):
                DTMPipeline.from_pretrained(folder)
        assert all((folder / name).exists() for name in names)


def test_what_a_student_asks_of_the_scheduler_is_checked(written):
    content = CONFIGS["student/config.json"]
    folder = written("student/config.json", content | {"sampler": {"time_grid": "none"}})
    pipeline = DTMPipeline.from_pretrained(ASSET)
    with pytest.raises(ValueError, match="`time_grid` must be 'sway'"):
        pipeline.load_student(folder / "student")
    folder = written("student/config.json", content | {"step_counts": [4]})
    with pytest.raises(ValueError, match="`step_counts` of the student"):
        pipeline.load_student(folder / "student")


class _Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("part", "safe", "pickled"),
    [
        ("backbone", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("head", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_pickled_weights_are_not_read(part, safe, pickled, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ASSET, folder)
    (folder / part / safe).unlink()
    torch.save({"a": _Payload(tmp_path / "ran")}, folder / part / pickled)
    with pytest.raises((ValueError, OSError)) as caught:
        DTMPipeline.from_pretrained(folder)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_yaml_that_doubles_itself_is_refused(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="must hold no references"):
        read_yaml(tmp_path / "config.yaml")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="config.yaml.*must hold no references"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)


def test_a_configuration_of_megabytes_is_not_read(tmp_path):
    (tmp_path / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ValueError, match="at most 4 MiB"):
        read_json(tmp_path / "config.json")


def test_values_are_compared_as_they_are():
    check_values({"dropout": 0, "dim": 64, "unknown": object()}, F5Backbone.__init__)
    for value in (64.0, "64", True, None):
        with pytest.raises(ValueError, match="^here: `dim` must be a valid integer, but got"):
            check_values({"dim": value}, F5Backbone.__init__, "here")
    with pytest.raises(ValueError, match="`num_iters` must be less than or equal to 1000, but got 1000000000"):
        check_values({"num_iters": 10**9}, GriffinLimVocoder.__init__)


@pytest.mark.parametrize("content", [b" \na\n\xff\n", b" \n" + b"a" * (4 * 2**20), b"", b"a\nb\n"])
def test_a_vocabulary_that_is_none_is_refused(content, copy, written):
    with pytest.raises(ValueError, match="vocab.txt"):
        DTMPipeline.from_pretrained(written("tokenizer/vocab.txt", content))


def test_a_damaged_weight_file_is_named(tmp_path):
    shutil.copytree(ASSET / "head", tmp_path / "head")
    weights = tmp_path / "head" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="head.* a safetensors file in it is damaged"):
        DTMHead.from_pretrained(tmp_path / "head")
