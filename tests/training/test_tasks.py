"""The contract `Task`, which every kind of training keeps: each objective of training/systems.py is a row."""

import json

import pytest
import torch
from tiny import VOCABULARY
from tiny_codec import tiny_codec
from training_runs import LOOP, QUIET, SIZES, write_corpus

from dtm_hf import DTMPipeline, DTMScheduler, TextAligner
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.codes import Tokenization, tokenize
from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.systems import SYSTEMS, build_task, parse_config

CPU = torch.device("cpu")
HEAD = "--head_hidden_size 32 --head_num_layers 1 --t_sampling sway".split()
IMAGES = "--resolution 16 --images_per_batch 3 --max_sequence_length 12 --teacher_steps 2 --image_column image".split()
STUDENT = "--lora_rank 2 --step_counts 1 2".split()
SPEECHT5 = (
    "--speecht5_hidden_size 16 --speecht5_layers 1 --speecht5_heads 2 --speecht5_ffn_dim 16 --speecht5_prenet_units 8 "
    "--speecht5_postnet_units 8 --speaker_embedding_dim 8"
).split()
CODEC = (
    "--codec_num_filters 8 --codec_hidden_size 32 --codec_num_layers 1 --codec_num_heads 2 "
    "--codec_intermediate_size 32 --codec_num_quantizers 3 --codec_codebook_size 8 --codec_codebook_dim 8 "
    "--codec_clip_frames 4 --codec_warmup_steps 0"
).split()
VOCODER = (
    "--vocoder_dim 8 --vocoder_intermediate_dim 8 --vocoder_num_layers 1 --segment_frames 16 --adversarial_start 0 "
    "--discriminator_windows 128 --discriminator_channels 2 --discriminator_periods 7"
).split()
TRM = (
    "--num_codebooks 3 --max_text_length 40 --max_audio_frames 40 --trm_text_dim 16 --trm_audio_dim 16 "
    "--trm_ffn_dim 16 --trm_num_heads 2 --trm_text_layers 1 --trm_num_layers 1 --trm_l_cycles 1 --trm_h_cycles 2"
).split()
# What the loop may ask of a loader's batch.
COUNTS = {"bad_rows", "dropped", "bad_row_details"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def base(backbone, tokenizer, feature_extractor, vocoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "pipeline"
    parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "vocoder": vocoder}
    DTMPipeline(backbone=backbone, head=None, scheduler=DTMScheduler(2, 0), **parts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def guiding(make_guidance_head, tmp_path_factory):
    """Folder of a head that says what guidance adds."""
    folder = tmp_path_factory.mktemp("head")
    make_guidance_head(random_weights=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(SYSTEMS))
def objective(request):
    return request.param


@pytest.fixture(scope="module")
def aligner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligner")
    TextAligner(len(VOCABULARY), hidden_size=16, embedding_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coded(corpus, tmp_path_factory):
    """Folders of a codec and of the corpus in its codes."""
    codec, folder = tmp_path_factory.mktemp("codec"), tmp_path_factory.mktemp("coded")
    tiny_codec().save_pretrained(codec)
    tokenize(Tokenization(SourceArguments(str(corpus)), str(codec)), folder, ["train", "validation"])
    return codec, folder


@pytest.fixture(scope="module")
def task(objective, corpus, base, guiding, aligner, coded, pipeline_folder, image_corpus):
    """Built and placed as the loop does it."""
    speech = ["--dataset", str(corpus), *LOOP, *QUIET, "--sample_prompts", "a|hello"]
    untold = ["--dataset", str(corpus), *LOOP, *QUIET, "--vocab_file", str(corpus / "vocab.txt")]
    on_base = [*speech, "--base_model", str(base)]
    on_codes = ["--dataset", str(coded[1]), "--codec", str(coded[0]), *untold[2:], "--sample_prompts", "a|hello"]
    pictures = ["--dataset", str(image_corpus), *LOOP[2:], "--max_bad_fraction", "0.5", *IMAGES]
    rows = {
        "dtm": [*on_base, *HEAD],
        "flow_matching": [*speech, *SIZES, "--vocab_file", str(corpus / "vocab.txt"), "--t_sampling", "sway"],
        "alignment": [*untold, "--aligner_hidden_size", "16"],
        "durations": [*untold, "--durations_hidden_size", "16", "--text_aligner", str(aligner)],
        "speecht5": [*untold, *SPEECHT5, "--sample_prompts", "a|hello"],
        "tdm": [*on_base, *STUDENT],
        "tdm_head": [*on_base, *STUDENT[:2], "--step_counts", "4", "--init_from", str(guiding)],
        "codec": [*untold, *CODEC, "--sample_prompts", "a|"],
        "vocoder": [*untold, *VOCODER, "--sample_prompts", "a|"],
        "trm": [*on_codes, *TRM],
        "trm_latents": [*on_codes, *TRM, *HEAD[:4]],
        "tdm_image": [*pictures, *STUDENT, "--base_model", str(pipeline_folder("sd")), "--sample_prompts", "a cat"],
    }
    task = build_task(parse_config(["--objective", objective, *rows[objective]]))
    task.place(CPU)
    with torch.no_grad():
        for parameter in task.module.parameters():
            # A zero of an adapter, or of an output, would hide gradients.
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return task


def batches(task, split="train", endless=True):
    return task.loader(split, seed=0, rank=0, world_size=1, endless=endless)


@pytest.fixture(scope="module")
def raw(task):
    return next(iter(batches(task)))


@pytest.fixture(scope="module")
def batch(task, raw):
    return task.batch(raw, CPU)


def test_groups_share_out_what_the_module_trains(task):
    groups = task.groups()
    ids = [id(parameter) for group in groups.values() for parameter in group.values()]
    trained = {id(parameter) for parameter in task.module.parameters() if parameter.requires_grad}
    assert len(ids) == len(set(ids)) and set(ids) == trained and all(groups.values())
    assert all(task.learning_rate(name) is None or task.learning_rate(name) > 0 for name in groups)


def test_batches_are_counted_and_their_place_can_be_kept(task, raw, batch):
    assert raw.keys() >= COUNTS
    units, padded = task.size(raw, batch)
    assert 0 < units <= padded
    (name, some), (_, more) = (next(iter(task.amount(n).items())) for n in (units, 2 * units))
    assert name and more == pytest.approx(2 * some) and some > 0 and task.unit.endswith("s")
    stream = batches(task)
    next(iter(stream))
    json.dumps(stream.state_dict())


def test_each_phase_trains_its_group_alone(task, batch):
    groups, phases = task.groups(), task.phases(0)
    assert [phase.group for phase in phases][-1] == next(iter(groups)), "the group that the run is about comes last"
    assert {phase.group for phase in phases} == groups.keys()
    torch.manual_seed(0)
    prepared = task.prepare(batch)
    for phase in phases:
        task.module.zero_grad(set_to_none=True)
        with task.precision():
            output = phase.loss(task.module, prepared)
        assert isinstance(output, LossOutput) and output.loss.shape == () and output.loss.isfinite()
        rows, frames = output.row_losses.double(), output.row_frames.double()
        torch.testing.assert_close(
            (rows * frames).sum() / frames.sum(), output.loss.detach().double(), rtol=1e-4, atol=0
        )
        assert not rows.requires_grad and all(sums.shape[0] == 2 for sums in output.by_time(4).values())
        output.loss.backward()
        for name, group in groups.items():
            moved = [p.grad is not None and bool(p.grad.any()) for p in group.values()]
            assert any(moved) if name == phase.group else not any(moved), name


def test_validation_is_the_same_whenever_it_is_asked_for(task):
    batch = task.batch(next(iter(batches(task, "validation", endless=False))), CPU)
    task.module.eval()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            figures = task.validate(batch, torch.Generator().manual_seed(0))
        found.append({name: float(value) for name, value in figures.items()})
    task.module.train()
    assert found[0] == found[1] and task.decisive in found[0]


def test_samples_leave_the_draws_alone(task, objective, tmp_path):
    has_samples = task.open_samples(tmp_path / "samples")
    assert has_samples == (objective not in ("alignment", "durations"))
    if not has_samples:
        return
    before = torch.get_rng_state()
    task.write_samples(7, [])
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "samples/step-00000007/info.json").is_file()


def test_a_result_and_a_repository_are_complete(task, tmp_path):
    task.save(tmp_path / "result", step=3, units=1000)
    task.save_repository(tmp_path / "repository", "org/name", 3, 1000, {f"validation_{task.decisive}": 0.125})
    for folder in ("result", "repository"):
        files = [path.name for path in (tmp_path / folder).rglob("*") if path.is_file()]
        assert any(name.endswith(".safetensors") for name in files)
        assert not [name for name in files if name.startswith(".") and name.endswith(".safetensors")]
    card = (tmp_path / "repository/README.md").read_text()
    assert "org/name" in card and "0.125" in card


@pytest.mark.parametrize("objective", ["dtm", "tdm", "tdm_head"])
def test_what_times_the_text_of_a_batch_is_placed_too(objective, corpus, timed_pipeline, guiding, tmp_path):
    """A GPU would refuse an aligner that was left behind; there is none here, but another device."""
    timed_pipeline.save_pretrained(tmp_path)
    more = {"dtm": HEAD, "tdm": STUDENT, "tdm_head": [*STUDENT[:2], "--step_counts", "4", "--init_from", str(guiding)]}
    argv = ["--objective", objective, "--base_model", str(tmp_path), "--dataset", str(corpus), *more[objective]]
    task = build_task(parse_config(argv))
    task.place(torch.device("meta"))
    parts = [task.components.backbone, task.components.text_aligner]
    assert {parameter.device.type for part in parts for parameter in part.parameters()} == {"meta"}
