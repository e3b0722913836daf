"""Training on codes: resumed to the bit, in two processes, from data that is odd; the document's configuration."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from speech_corpora import row, write_parquet
from tiny_codec import tiny_codec
from training_runs import LOOP, QUIET, Run, log, write_corpus

from dtm_hf import TRMPipeline
from dtm_hf.codec.mimi import codec_fingerprint, encode_recordings, load_codec
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.codes import Tokenization, tokenize
from dtm_hf.training.systems import build_task, parse_config
from dtm_hf.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
TRM = (
    "--objective trm --num_codebooks 3 --max_text_length 40 --max_audio_frames 12 --trm_text_dim 16 "
    "--trm_audio_dim 16 --trm_ffn_dim 16 --trm_num_heads 2 --trm_text_layers 1 --trm_num_layers 1 --trm_l_cycles 1 "
    "--trm_h_cycles 2"
).split()
CODEC = (
    "--objective codec --codec_num_filters 8 --codec_hidden_size 32 --codec_num_layers 1 --codec_num_heads 2 "
    "--codec_intermediate_size 32 --codec_num_quantizers 3 --codec_codebook_size 8 --codec_codebook_dim 8 "
    "--codec_clip_frames 4 --codec_warmup_steps 2"
).split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), train_rows=12)
    # A second voice.
    rows = [row(i, 0.4 + 0.05 * i, speaker="b", text="hello there") for i in range(3)]
    return write_parquet(folder, rows, split="train-more")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    tiny_codec().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coded(corpus, codec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    tokenize(Tokenization(SourceArguments(str(corpus)), str(codec)), folder, ["train", "validation"])
    return folder


@pytest.fixture
def trained(corpus, codec, coded, tmp_path):
    def train(objective, name, steps, *more):
        AcceleratorState._reset_state(reset_partial_state=True)
        own = [*CODEC, "--dataset", corpus]
        if objective != "codec":
            own = [*TRM, "--dataset", coded, "--codec", codec, "--objective", objective]
        if objective == "trm_latents":
            own += ["--head_hidden_size", 16, "--head_num_layers", 1, "--head_architecture", "conv"]
        argv = [*own, *LOOP, *QUIET, "--vocab_file", corpus / "vocab.txt", "--output_dir", tmp_path / name]
        Trainer(parse_config([str(word) for word in [*argv, "--max_steps", steps, *more]])).train()
        AcceleratorState._reset_state(reset_partial_state=True)
        return tmp_path / name

    return train


PROMPTS = {"trm": ["Just text.", "a|hello", "--sample_speaker", "1"], "codec": ["a|"]}
PROMPTS["trm_latents"] = PROMPTS["trm"]


@pytest.fixture(params=["trm", "trm_latents", "codec"])
def twice(request, trained):
    """Objective, and folders of a run of four steps and of one that was cut short after two."""
    objective = request.param
    prompts = ["--sample_prompts", *PROMPTS[objective], "--sample_interval", "4"]
    straight = trained(objective, "straight", 4, *prompts)
    trained(objective, "stopped", 2)
    return objective, straight, trained(objective, "stopped", 4, *prompts)


def test_a_run_goes_on_to_the_bit_and_its_result_is_what_it_says(twice):
    objective, straight, stopped = twice
    files = {"codec": ["."], "trm": ["model"], "trm_latents": ["model", "head"]}[objective]
    for file in files:
        one, other = (load_file(folder / file / "model.safetensors") for folder in (straight, stopped))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for name in ("loss", "validation_loss", "hours"):
        assert log(straight, name) == log(stopped, name) and log(straight, name), name
    assert "4 steps" in (straight / "README.md").read_text()
    info = json.loads((straight / "samples/step-00000004/info.json").read_text())
    _codes(straight) if objective == "codec" else _speaks(straight, info)


def _speaks(folder, info):
    pipe = TRMPipeline.from_pretrained(folder)
    assert pipe.speakers == ["a", "b"] and pipe.scheduler.config.num_inference_steps == 2
    assert pipe.duration_predictor is None or pipe.duration_predictor("hello") > 0
    pipe.set_progress_bar_config(disable=True)
    assert pipe("hello", "b").audios[0].any()
    assert [(s["speaker"], s["text"]) for s in info["samples"]] == [("b", "Just text."), ("a", "hello")]
    assert info["temperature"] == 0.8 and info["num_inference_steps"] == 2


def _codes(folder):
    assert encode_recordings(load_codec(folder), [torch.rand(4000)])[0].shape == (3, 3)
    assert "MimiModel.from_pretrained" in (folder / "README.md").read_text()
    assert list((folder / "samples/ground-truth").glob("*.wav"))


def test_a_network_learns_on_to_see_what_is_decided(trained):
    """Its saved form says what the last of its runs has taught it."""
    blind = trained("trm", "blind", 1, "--feedback", "false")
    seeing = trained("trm", "seeing", 1, "--init_from", blind, "--silent_share", "0.5")
    for folder, feedback, silent in ((blind, False, 0.0), (seeing, True, 0.5)):
        pipe = TRMPipeline.from_pretrained(folder)
        assert (pipe.model.config.feedback, pipe.scheduler.config.silent_share) == (feedback, silent)


def test_a_decoder_learns_on_and_codes_stay(codec, trained):
    """Another fingerprint would make all that was tokenised worthless."""
    more = trained("codec", "more", 2, "--init_from", codec, "--codec_keeps_codes", "true", "--learning_rate", "0.01")
    before, after = load_codec(codec), load_codec(more)
    assert codec_fingerprint(before) == codec_fingerprint(after)
    name = "decoder.decoder_seanet.layers.0.conv.weight"
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    with pytest.raises(ValueError, match="`codec_keeps_codes` needs the codec whose codes are kept, but `init_from`"):
        trained("codec", "none", 2, "--codec_keeps_codes", "true")


@pytest.mark.slow
def test_two_processes_give_what_one_gives_that_accumulates(corpus, codec, coded, trained, tmp_path):
    more = ["--vocab_file", str(corpus / "vocab.txt"), "--max_steps", "3", "--eval_interval", "3"]
    argv = arguments(corpus, codec, coded, *more, "--output_dir", str(tmp_path / "two"))
    run = Run(argv, processes=2)
    assert run.wait() == 0, run.output.read_text()[-3000:]
    one = trained("trm", "one", 3, "--gradient_accumulation_steps", "2", "--eval_interval", "3", "--num_workers", "2")
    for name in ("loss", "grad_norm", "validation_loss"):
        assert log(tmp_path / "two", name) == pytest.approx(log(one, name), rel=1e-4), name


@pytest.mark.slow
def test_two_processes_move_the_same_books(corpus, tmp_path):
    more = ["--vocab_file", str(corpus / "vocab.txt"), "--max_steps", "4", "--output_dir", str(tmp_path / "two")]
    run = Run([*CODEC, "--dataset", str(corpus), *LOOP, *QUIET, *more], processes=2)
    assert run.wait() == 0, run.output.read_text()[-3000:]
    assert load_codec(tmp_path / "two").config.num_quantizers == 3


def arguments(corpus, codec, coded, *more):
    return [*TRM, "--dataset", str(coded), "--codec", str(codec), *LOOP, *QUIET, *more]


def test_rows_beyond_a_limit_are_counted(corpus, codec, coded):
    for limit, reason, size in (
        (["--max_audio_frames", "8"], "more than 8 frames", lambda batch: batch["codes"].shape[2]),
        (["--max_text_length", "8"], "text of more than 8 tokens", lambda batch: batch["text_ids"].shape[1]),
    ):
        argv = arguments(corpus, codec, coded, *limit, "--vocab_file", str(corpus / "vocab.txt"))
        task = build_task(parse_config(argv))
        batches = list(task.loader("train", seed=0, rank=0, world_size=1, endless=False))
        dropped = sum((batch["dropped"].get(reason, 0) for batch in batches), 0)
        assert dropped > 0 and max(map(size, batches)) <= 8
        assert sum(len(batch["codes"]) for batch in batches) + dropped == sum(batch["rows"] for batch in batches) == 14


GOOD = [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("bad", [[[-1, 2], *GOOD[1:]], [[1, 16], *GOOD[1:]], GOOD[:2], None])
def test_rows_with_codes_that_no_codebook_has_and_without_any_are_bad(corpus, codec, tmp_path, bad):
    rows = [{"text": "hello", "speaker": "a", "codes": codes} for codes in (GOOD, bad, GOOD)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    more = ["--max_bad_fraction", "0.5", "--vocab_file", str(corpus / "vocab.txt")]
    task = build_task(parse_config(arguments(corpus, codec, tmp_path, *more)))
    batches = list(task.loader("train", seed=0, rank=0, world_size=1, endless=False))
    assert sum(batch["rows"] for batch in batches) == 3
    assert sum(sum(batch["bad_rows"].values()) for batch in batches) == 1
    assert sum(len(batch["codes"]) for batch in batches) == 2


def test_a_probability_of_the_draws_may_be_given(corpus, codec, coded):
    """Bounds of which the lower is exclusive once ended in a TypeError."""
    assert parse_config(arguments(corpus, codec, coded, "--sample_top_p", "0.9")).objective.sample_top_p == 0.9


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--num_codebooks", "33"], r"`num_codebooks` must lie in \[1, 32\]"),
        (["--num_codebooks", "5"], "`num_codebooks` must be at most the 4 of `codec`, but got 5"),
        (["--speakers", "x", "x"], "`speakers` must be distinct"),
        (["--sample_speaker", "eve"], "`sample_speaker` must be one of"),
        (["--codes_column", "tokens"], r"no column 'tokens' \(`codes_column`\)"),
        (["--trm_audio_dim", "18"], "`trm_audio_dim` must be a multiple of twice `trm_num_heads`, 4, but got 18"),
        (["--num_supervisions", "2"], "`num_supervisions` must be 1 with `feedback`"),
        (["--halt_accuracy", "1.5"], "`halt_accuracy` must be at most 1, but got 1.5"),
        (["--halt_accuracy", "0"], "`halt_accuracy` must be greater than 0, but got 0.0"),
        (["--sample_top_p", "2"], "`sample_top_p` must be at most 1, or none, but got 2.0"),
        (["--max_audio_frames", "300"], "`frames_per_batch` must hold a recording"),
        (["--mixed_precision", "fp16"], "'fp16': small updates would be lost"),
        (["--codec", "{corpus}"], "no file named model.safetensors"),
        (["--sample_prompts", "eve|hello"], "`sample_prompts` entry 1: `voice` must be one of"),
    ],
)
def test_what_cannot_be_trained_is_refused(corpus, codec, coded, more, told, tmp_path):
    more = [word.replace("{corpus}", str(corpus)) for word in more]
    argv = arguments(corpus, codec, coded, "--vocab_file", str(corpus / "vocab.txt"), *more)
    with pytest.raises((ValueError, OSError), match=told):
        build_task(parse_config(argv)).open_samples(tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--head_architecture", "transformer"], "`head_architecture` must be 'mlp' or 'conv' for trm_latents"),
        (["--num_head_steps", "3"], "`num_head_steps` must be even"),
        (["--trm_audio_dim", "18"], "`trm_audio_dim` must be a multiple of twice"),
    ],
)
def test_latents_that_cannot_be_trained_are_refused(corpus, codec, coded, more, told):
    argv = arguments(corpus, codec, coded, "--objective", "trm_latents", *more)
    with pytest.raises(ValueError, match=told):
        parse_config(argv)


def test_codes_of_another_codec_and_recordings_without_codes_are_refused(corpus, codec, coded, tmp_path):
    other = tiny_codec()
    other.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.mul_(2)
    other.save_pretrained(tmp_path)
    vocabulary = ["--vocab_file", str(corpus / "vocab.txt")]
    with pytest.raises(ValueError, match="must be the one that .* was tokenized with"):
        build_task(parse_config(arguments(corpus, tmp_path, coded, *vocabulary)))
    with pytest.raises(ValueError, match=r"no column 'codes' \(`codes_column`\)"):
        build_task(parse_config(arguments(corpus, codec, corpus, *vocabulary)))


# The document's flags, and what docs/trm.md makes of them.
FLAGS = """--data-dir --token-dir --max-text-length --max-audio-frames --text-embed-dim --audio-embed-dim --hidden-dim
--text-layers --L-layers --H-cycles --L-cycles --num-heads --share-output-heads --epochs --batch-size --lr
--weight-decay --grad-clip --fp16 --log-interval --eval-interval --save-interval --output-dir --run-name --wandb
--sample-interval --num-samples --sample-prompts --sample-prompts-file --sample-speaker --sample-temperature
--sample-top-k --sample-top-p --num-workers --seed --device""".split()


def test_each_flag_of_the_document_has_its_field_and_its_default():
    page = (ROOT / "docs/trm.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[\w-]+)` \| ([^|]*) \| ([^|]*) \|", page, re.MULTILINE)
    assert sorted(flag for flag, _, _ in rows) == sorted(FLAGS)
    path = ROOT / "training/configs/trm_document.yaml"
    config = parse_config(["--config", str(path)])
    sections = {"trm": config.objective} | {n: getattr(config, n) for n in ("data", "optimization", "logging")}
    content, compared = yaml.safe_load(path.read_text(encoding="utf-8")), 0
    for flag, default, field in rows:
        found = re.match(r"`(\w+)\.(\w+)`", field)
        if found is None:
            assert len(field) > 10, f"{flag}: neither a field nor a reason"
            continue
        section, name = found.groups()
        value = getattr(sections[section], name)
        # In parentheses: the document's value means something else there.
        if default.startswith("`"):
            assert name in content[section], f"{flag}: trm_document.yaml leaves {name} out"
            assert yaml.safe_load(default.strip("` ")) == value or default.strip("` ") == str(value), (flag, value)
            compared += 1
    assert compared >= 24


def test_a_new_codec_waits_for_no_device_at_its_convolutions(corpus, tmp_path):
    """On a device without values, where what reads one fails; its map of the mel is trained and not saved."""
    task = build_task(parse_config([*CODEC, "--dataset", str(corpus), "--output_dir", str(tmp_path)]))
    trained = set(task.groups()["codec"])
    assert {"reader.map.weight", "codec.decoder.decoder_seanet.layers.0.conv.weight"} <= trained
    task.save(tmp_path / "saved", 1, 1)
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "reader" in name]
    task.codec.to("meta")
    with torch.no_grad():
        assert task.codec.encoder.encoder_seanet(torch.zeros(1, 1, 3840, device="meta")).shape == (1, 32, 4)
