"""The command line, run as a user runs it, on a tiny pipeline with random weights."""

import re
import string
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from dtm_hf.commands import models
from dtm_hf.commands.main import app

SIZES = {"dim": 64, "depth": 2, "heads": 1, "dim_head": 64, "text_dim": 32, "conv_layers": 1}
VOCABULARY = [" ", *string.ascii_letters, *".,?!'"]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_error_line(result) -> str:
    """The single line that a refusal prints; no traceback, and nothing on stdout."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """One second of a chirp at 16 kHz."""
    seconds = np.arange(16_000) / 16_000
    path = tmp_path_factory.mktemp("recording") / "voice.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 400 * seconds) * seconds), 16_000)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory, vocab, recording):
    """Folder of a pipeline with a head, with two packaged voices."""
    from dtm_hf import (
        DTMHead,
        DTMHeadConfig,
        DTMPipeline,
        DTMScheduler,
        F5Backbone,
        F5FeatureExtractor,
        F5Tokenizer,
        GriffinLimVocoder,
    )

    torch.manual_seed(0)
    tokenizer = F5Tokenizer(vocab)
    backbone = F5Backbone(text_num_embeds=tokenizer.vocab_size, name="tiny [b]", revision="7", license="mit", **SIZES)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    head = DTMHead(
        DTMHeadConfig(
            backbone_hidden_size=64,
            hidden_size=32,
            num_hidden_layers=1,
            time_embed_dim=16,
            backbone_name="tiny [b]",
            backbone_fingerprint=backbone.fingerprint,
            license="mit",
        )
    )
    torch.nn.init.normal_(head.output_proj.weight, std=0.5)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    DTMPipeline(
        backbone=backbone,
        head=head,
        tokenizer=tokenizer,
        feature_extractor=F5FeatureExtractor(),
        vocoder=GriffinLimVocoder(num_iters=2),
        scheduler=DTMScheduler(num_inference_steps=3, num_head_steps=2),
    ).save_pretrained(folder)
    for name, said in {"reference": "Hello there.", "reference-low": "Good evening."}.items():
        (folder / f"{name}.wav").write_bytes(recording.read_bytes())
        (folder / f"{name}.txt").write_text(said + "\n")
    return folder


def speak_to(output, model, *more: object) -> np.ndarray:
    result = run("speak", "Good morning.", "--model", model, "-o", output, *more)
    assert result.exit_code == 0, result.stderr
    return soundfile.read(output)[0]


# Help, and what is refused before anything is loaded


def test_importing_the_command_line_loads_no_heavy_library_and_help_names_every_command():
    script = (
        "import sys, dtm_hf.commands.main as m\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'f5_tts', 'numpy', 'matplotlib', 'soundfile'}\n"
        "print(sorted(heavy & set(sys.modules))); sys.argv = ['dtm-hf', '--help']\n"
        "try: m.main()\n"
        "finally: print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    lines = output.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")
    assert all(re.search(rf"\s{name}\s", output) for name in ("demo", "speak", "info", "convert-f5", "benchmark"))


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.speaking.load_pipeline", load)
    monkeypatch.setattr("dtm_hf.commands.info.load_pipeline", load)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["speak", "  "], "`TEXT`"),
        (["speak", "Hi.", "--model", "{tmp}/absent"], "`--model`"),
        (["speak", "Hi.", "--model", "{tmp}"], "model_index.json"),
        (["info", "{tmp}"], "model_index.json"),
        (["speak", "Hi.", "--model", "{model}", "--voice", "none"], "['default', 'low']"),
        (["speak", "Hi.", "--model", "{model}", "--voice", "low", "--reference-audio", "{wav}"], "`--voice`"),
        (["speak", "Hi.", "--model", "{model}", "--reference-audio", "{wav}"], "`--reference-text` is missing"),
        (["speak", "Hi.", "--model", "{model}", "--reference-audio", "{wav}", "--reference-text", " "], "is missing"),
        (["speak", "Hi.", "--model", "{model}", "--reference-text", "Hello."], "`--reference-audio`"),
        (
            ["speak", "Hi.", "--model", "{model}", "--reference-audio", "{tmp}/no.wav", "--reference-text", "a"],
            "no.wav",
        ),
        (["speak", "Hi.", "--model", "{model}", "--reference-audio", "{vocab}", "--reference-text", "a"], "as audio"),
        (["speak", "Hi.", "--model", "org/name", "--local-files-only"], "`--model`"),
        (["speak", "Hi.", "--model", "{model}", "-o", "speech.mp3"], ".wav"),
        (["speak", "Hi.", "--model", "{model}", "--speed", "0"], "`--speed`"),
        (["speak", "Hi.", "--model", "{model}", "--guidance", "nan"], "`--guidance`"),
        (["convert-f5", "{tmp}/no.pt", "{vocab}", "{tmp}/out"], "`CHECKPOINT`"),
        (["convert-f5", "{vocab}", "{tmp}/no.txt", "{tmp}/out"], "`VOCAB`"),
        (["convert-f5", "no.pt", "no.txt", "{tmp}/out"], "`CHECKPOINT` 'no.pt' is no file, and `VOCAB` 'no"),
        (["convert-f5", "{vocab}", "{vocab}", "{tmp}/out", "--variant", "v9"], "`--variant`"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    arguments, named, nothing_is_loaded, model, recording, vocab, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    paths = {"{model}": model, "{wav}": recording, "{vocab}": vocab, "{tmp}": tmp_path}
    for placeholder, path in paths.items():
        arguments = [argument.replace(placeholder, str(path)) for argument in arguments]
    result = run(*arguments)
    assert named in one_error_line(result)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--steps", "0"], ["--head-steps", "-1"], ["--dtype", "int8"], ["--seed", "-1"]])
def test_values_out_of_range_are_refused_by_name(option, nothing_is_loaded, model):
    result = run("speak", "Hi.", "--model", model, *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr


@pytest.mark.parametrize("command", [["demo"], ["speak", "Hi."]])
@pytest.mark.parametrize("output", ["file/below/x.wav", "folder.wav", "device.wav"])
def test_an_unwritable_output_is_refused_before_loading_and_leaves_nothing(
    command, output, nothing_is_loaded, model, tmp_path
):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "device.wav").symlink_to("/dev/null")
    before = sorted(tmp_path.rglob("*"))
    result = run(*command, "--model", model, "-o", tmp_path / output)
    assert output in one_error_line(result)
    assert result.exit_code == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_without_an_embedded_pipeline_the_demo_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "EMBEDDED", tmp_path / "absent")
    result = run("demo", "-o", tmp_path / "out" / "demo.wav")
    assert result.exit_code == 2
    assert "`--model`" in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


# Speaking


def test_the_demo_speaks_with_the_embedded_pipeline_and_draws_its_mel(model, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "EMBEDDED", model)
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["demo.png", "demo.wav", "out"]
    facts = soundfile.info("out/demo.wav")
    assert (facts.samplerate, facts.channels, facts.subtype) == (24_000, 1, "PCM_16")
    wave = soundfile.read("out/demo.wav")[0]
    assert np.isfinite(wave).all() and np.abs(wave).max() > 0.001
    assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    seconds = float(re.search(r"([\d.]+) s of speech", result.stdout)[1])
    assert seconds == pytest.approx(len(wave) / 24_000, abs=0.01)
    assert "out/demo.wav\n" in result.stdout and "real-time factor" in result.stdout


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ([], "6 backbone passes, 6 head calls"),
        (["--head-steps", "0"], "6 backbone passes, 0 head calls"),
        (["--steps", "2", "--head-steps", "4", "--guidance", "1"], "2 backbone passes, 8 head calls"),
    ],
)
def test_the_cost_is_that_of_the_options(options, counted, model, tmp_path):
    result = run("speak", "Good morning.", "--model", model, "-o", tmp_path / "x.wav", *options)
    assert counted in result.stdout, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_options_reach_the_pipeline(model, recording, tmp_path):
    wav = tmp_path / "x.wav"
    default = speak_to(wav, model)
    assert np.array_equal(speak_to(wav, model, "--seed", 0, "--steps", 3, "--head-steps", 2), default)
    same_voice = ["--reference-audio", recording, "--reference-text", "Hello there."]
    assert np.array_equal(speak_to(wav, model, *same_voice), default)
    assert not np.array_equal(speak_to(wav, model, "--seed", 1), default)
    assert not np.array_equal(speak_to(wav, model, "--head-steps", 0), default)
    assert len(speak_to(wav, model, "--speed", 0.5)) > 1.8 * len(default)
    # The longer text of that voice makes its pace faster.
    assert len(speak_to(wav, model, "--voice", "low")) < len(default)
    half = speak_to(wav, model, "--dtype", "bfloat16")
    assert len(half) == len(default) and not np.array_equal(half, default)


def test_characters_that_the_model_does_not_know_are_named(model, tmp_path):
    result = run("speak", "Good 7 morning.", "--model", model, "-o", tmp_path / "x.wav")
    assert result.exit_code == 0
    assert "'7'" in result.stderr


@pytest.mark.parametrize(
    ("broken", "damage", "said"),
    [
        ("backbone/diffusion_pytorch_model.safetensors", lambda content: content[:1000], "damaged"),
        ("head/model.safetensors", lambda content: content[:1000], "damaged"),
        (
            "head/config.json",
            lambda content: content.replace(b'"hidden_size": 32', b'"hidden_size": "x"'),
            "hidden_size",
        ),
    ],
)
def test_damaged_files_give_one_line_and_leave_the_old_output(broken, damage, said, model, tmp_path):
    damaged = tmp_path / "damaged"
    for file in filter(lambda file: file.is_file(), model.rglob("*")):
        copy = damaged / file.relative_to(model)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (damaged / broken).write_bytes(damage((model / broken).read_bytes()))
    output = tmp_path / "x.wav"
    output.write_bytes(b"old")
    result = run("speak", "Hi.", "--model", damaged, "-o", output)
    assert result.exit_code == 1
    assert said in one_error_line(result)
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "x.wav"]


def test_a_traceback_comes_only_when_asked_for(model, tmp_path):
    arguments = ["speak", "Hi.", "--model", model, "-o", tmp_path / "x.wav", "--head-steps", 3]
    result = run(*arguments)
    assert result.exit_code == 2
    assert "`--head-steps`" in one_error_line(result)
    assert isinstance(run("--traceback", *arguments).exception, ValueError)


# Looking into a pipeline


def test_info_shows_parts_sizes_origin_and_sampling(model):
    from dtm_hf import DTMHead, F5Backbone

    result = run("info", model)
    assert result.exit_code == 0, result.stderr
    backbone = F5Backbone.from_pretrained(model / "backbone")
    sizes = [
        sum(parameter.numel() for parameter in part.parameters())
        for part in (backbone, DTMHead.from_pretrained(model / "head"))
    ]
    for expected in (
        *(f"{size:,}" for size in (*sizes, sum(sizes))),
        "F5Tokenizer",
        "GriffinLimVocoder",
        "F32",
        "mit",
        "tiny [b], revision 7",
        f"{backbone.fingerprint}: this backbone",
        "3 global steps, sway grid",
        "2 calls a global step, midpoint",
        "residual prediction, mlp architecture",
        "at inference, both branches",
        "by bytes of text as in F5-TTS",
        "chunks of at most 22 s with their prompt",
        "read as they are written, as in F5-TTS",
        "default, low",
    ):
        assert expected in result.stdout, (expected, result.stdout)


def test_info_shows_stored_types_baked_guidance_and_a_head_of_another_backbone(model, recording, tmp_path):
    from dtm_hf import DTMPipeline, DurationPredictor

    predictor = DurationPredictor(0.1, 0.1, {}, 0.1, training_data="10 clips")
    pipeline = DTMPipeline.from_pretrained(model, duration_predictor=predictor)
    pipeline.head.config.guidance_scale = 2.5
    pipeline.head.config.backbone_fingerprint = "0123456789abcdef"
    pipeline.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    result = run("info", tmp_path / "half")
    assert result.exit_code == 0, result.stderr
    assert "BF16" in result.stdout
    assert "by DurationPredictor, fitted on 10 clips" in result.stdout
    card = (tmp_path / "half" / "README.md").read_text()
    assert "| Length of the speech | in proportion to the prompt, by DurationPredictor, fitted on 10 clips |" in card
    assert "2.5, baked into the head: one branch" in result.stdout
    assert "0123456789abcdef: NOT this backbone" in result.stdout
    refused = run(
        *["speak", "Hi.", "--model", tmp_path / "half", "-o", tmp_path / "x.wav"],
        *["--reference-audio", recording, "--reference-text", "Hello there."],
    )
    assert refused.exit_code == 1
    assert "0123456789abcdef" in one_error_line(refused)


# Converting


def test_a_converted_checkpoint_is_a_pipeline_with_its_weights(vocab, recording, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from dtm_hf import F5Backbone
    from dtm_hf.backbone import f5_checkpoint

    # The official sizes are too large for a test; everything else is the official format.
    monkeypatch.setattr(f5_checkpoint, "variant_config", lambda variant: dict(SIZES))
    torch.manual_seed(1)
    original = F5Backbone(text_num_embeds=len(VOCABULARY), **SIZES)
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    state = {f"ema_model.transformer.{name}": value.clone() for name, value in original.dit.state_dict().items()}
    save_file(state | {"initted": torch.tensor(True), "step": torch.tensor(3)}, tmp_path / "model.safetensors")

    output = tmp_path / "new" / "converted"
    result = run("convert-f5", tmp_path / "model.safetensors", vocab, output, "--license", "mit")
    assert result.exit_code == 0, result.stderr
    assert original.fingerprint in result.stdout
    assert [path.name for path in output.parent.iterdir()] == ["converted"]
    assert F5Backbone.from_pretrained(output / "backbone").fingerprint == original.fingerprint
    assert (output / "tokenizer/vocab.txt").read_text() == vocab.read_text()
    card = (output / "README.md").read_text()
    assert "license: mit" in card

    spoken = run(
        *["speak", "Good morning.", "--model", output, "-o", tmp_path / "x.wav", "--steps", 2],
        *["--reference-audio", recording, "--reference-text", "Hello there."],
    )
    assert "4 backbone passes, 0 head calls" in spoken.stdout, spoken.stderr

    refused = run("convert-f5", tmp_path / "model.safetensors", vocab, output)
    assert "not an empty folder" in one_error_line(refused)
    assert (output / "README.md").read_text() == card


def test_a_checkpoint_of_another_variant_leaves_nothing(vocab, tmp_path):
    from safetensors.torch import save_file

    save_file({"ema_model.transformer.proj_out.weight": torch.zeros(100, 64)}, tmp_path / "model.safetensors")
    result = run("convert-f5", tmp_path / "model.safetensors", vocab, tmp_path / "a" / "b", "--variant", "v1_small")
    assert result.exit_code == 1
    assert "missing" in one_error_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
