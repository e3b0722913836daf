"""What a run builds from its configuration: new, continued, and around a base pipeline."""

import pytest
import torch

from dtm_hf import DTMHead, DTMPipeline, DTMScheduler, DurationPredictor, F5Backbone
from dtm_hf.training.systems import build_task, parse_config

HEAD = ["--head_hidden_size", "32", "--head_num_layers", "2"]


@pytest.fixture(scope="module")
def base(backbone, tokenizer, feature_extractor, vocoder, tmp_path_factory):
    """A saved pipeline without a head, in bfloat16."""
    folder = tmp_path_factory.mktemp("base")
    pipeline = DTMPipeline(
        backbone=backbone,
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(4, 0),
    )
    pipeline.save_pretrained(folder / "fp32")
    DTMPipeline.from_pretrained(folder / "fp32", dtype=torch.bfloat16).save_pretrained(folder / "bf16")
    return folder


def components(*argv):
    return build_task(parse_config(["--dataset", "corpus", *argv])).components


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_a_head_on_a_base_pipeline(base, backbone, form):
    parts = components(
        "--base_model", str(base / form), *HEAD, "--baked_guidance_scale", "2.5", "--num_head_steps", "4"
    )
    assert parts.trained is parts.head
    assert {parameter.dtype for parameter in parts.backbone.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parts.backbone.parameters())
    config = parts.head.config
    assert (config.backbone_hidden_size, config.guidance_scale, config.license) == (64, 2.5, "mit")
    assert (config.backbone_name, config.backbone_fingerprint) == ("tiny", backbone.fingerprint)
    assert config.sampler["num_head_steps"] == len(parts.scheduler.head_timesteps) == 4
    assert torch.equal(parts.objective.grid, parts.scheduler.timesteps)
    pipeline = parts.pipeline()
    assert pipeline.head is parts.head


def test_the_predictor_of_the_base_goes_along(base, tmp_path):
    predictor = DurationPredictor(0.1, 0.0, {"a": 0.1}, 0.1)
    DTMPipeline.from_pretrained(base / "fp32", duration_predictor=predictor).save_pretrained(tmp_path)
    for objective in ("dtm", "tdm"):
        parts = components("--base_model", str(tmp_path), "--objective", objective, *HEAD)
        assert parts.pipeline().duration_predictor("aa") == predictor("aa")
    assert components("--base_model", str(base / "fp32"), *HEAD).pipeline().duration_predictor is None


@pytest.mark.parametrize("option", ["--init_from", "--output_dir"])
def test_a_backbone_that_trains_on_keeps_the_predictor(option, base, tmp_path):
    """From where it starts, or from the pipeline that the run saves over."""
    predictor = DurationPredictor(0.1, 0.0, {"a": 0.1}, 0.1)
    DTMPipeline.from_pretrained(base / "fp32", duration_predictor=predictor).save_pretrained(tmp_path / "run")
    vocab = str(tmp_path / "run" / "tokenizer" / "vocab.txt")
    options = [
        "--objective",
        "flow_matching",
        "--vocab_file",
        vocab,
        "--t_sampling",
        "sway",
        option,
        str(tmp_path / "run"),
    ]
    assert components(*options).pipeline().duration_predictor("aa") == predictor("aa")


def test_a_new_run_asks_nobody_for_a_predictor(base, tmp_path, monkeypatch):
    """A folder that is not there yet would else be taken for a name on the Hub."""

    def load(*_args, **_kwargs):
        raise AssertionError("a predictor was asked for")

    monkeypatch.setattr(DurationPredictor, "from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    vocab = str(base / "fp32" / "tokenizer" / "vocab.txt")
    sizes = ["--backbone_dim", "64", "--backbone_depth", "1", "--backbone_heads", "1", "--backbone_text_dim", "16"]
    options = ["--objective", "flow_matching", "--vocab_file", vocab, "--t_sampling", "sway", *sizes]
    assert components(*options, "--output_dir", "runs/new").pipeline().duration_predictor is None


def test_a_backbone_records_how_long_its_clips_were(base):
    vocab = str(base / "fp32" / "tokenizer" / "vocab.txt")
    options = ["--objective", "flow_matching", "--vocab_file", vocab, "--t_sampling", "sway"]
    sizes = ["--backbone_dim", "64", "--backbone_depth", "1", "--backbone_heads", "1", "--backbone_text_dim", "16"]
    task = build_task(parse_config(["--dataset", "corpus", *options, *sizes]))
    task.record("nothing", None)
    assert task.components.backbone.config.max_seconds is None
    # The second has an outlier.
    for seconds in ([1.0, 1.2, 1.1], [2.4, 2.5, 9.0], [0.5, 0.6, 0.4]):
        samples = torch.tensor([int(24000 * second) for second in seconds])
        rows = {"waveform": torch.zeros(3, int(samples.max())), "num_samples": samples}
        rows |= {"text_ids": torch.ones(3, 4, dtype=torch.long), "prompt_samples": torch.zeros(3, dtype=torch.long)}
        task.batch(rows, torch.device("cpu"))
    task.record("clips", None)
    assert task.components.pipeline().backbone.config.max_seconds == 2.5


def test_a_head_goes_on_from_another(base, make_head, backbone, tmp_path):
    """Weights and shape are those of the old one, the record of what it was trained for is that of this run."""
    old = make_head(
        architecture="conv", guidance_scale=3.0, backbone_fingerprint="another", base_model="another/model"
    )
    old.to(torch.bfloat16).save_pretrained(tmp_path / "old")
    parts = components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path / "old"))
    assert {parameter.dtype for parameter in parts.head.parameters()} == {torch.float32}
    assert torch.equal(parts.head.output_proj.weight, old.output_proj.weight.float())
    config = parts.head.config
    assert config.architecture == "conv" and config.guidance_scale is None
    assert config.backbone_fingerprint == backbone.fingerprint
    assert config.base_model is None, "a folder of this machine is no base model for who pulls the head"
    parts.pipeline().save_pretrained(tmp_path / "new")
    assert DTMHead.from_pretrained(tmp_path / "new" / "head").config.backbone_fingerprint == backbone.fingerprint


def test_a_head_with_a_range_of_guidance_goes_on_only_with_one(base, make_head, tmp_path):
    argv = ["--base_model", str(base / "fp32"), "--baked_guidance_scale", "1.5"]
    ranged = [*argv, "--baked_guidance_range", "1", "3"]
    fresh = components(*ranged, *HEAD).head
    assert fresh.config.guidance_scale == 1.5 and fresh.config.guidance_scale_range == [1.0, 3.0]
    make_head(guidance_scale=2.0, guidance_scale_range=[1.0, 4.0]).save_pretrained(tmp_path / "ranged")
    make_head(guidance_scale=2.0).save_pretrained(tmp_path / "fixed")
    assert components(*ranged, "--init_from", str(tmp_path / "ranged")).head.config.guidance_scale_range == [1.0, 3.0]
    for options, old in ((ranged, "fixed"), (argv, "ranged")):
        with pytest.raises(ValueError, match="`init_from` must have been trained with a `baked_guidance_range`"):
            components(*options, "--init_from", str(tmp_path / old))


def test_a_head_goes_on_from_the_head_of_a_pipeline(base, make_head, tmp_path):
    pipeline = DTMPipeline.from_pretrained(base / "fp32")
    pipeline.head = make_head(seed=5)
    pipeline.register_to_config(head=("dtm_hf", "DTMHead"))
    pipeline.save_pretrained(tmp_path)
    other = ["--num_inference_steps", "4", "--num_head_steps", "4", "--time_grid", "uniform"]
    parts = components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path), *other)
    assert torch.equal(parts.head.output_proj.weight, make_head(seed=5).output_proj.weight)
    assert parts.head.config.sampler == {
        "num_inference_steps": 4,
        "num_head_steps": 4,
        "head_solver": "midpoint",
        "time_grid": "uniform",
    }
    assert parts.objective.grid.tolist() == [0.0, 0.25, 0.5, 0.75]


def test_a_frozen_backbone_in_bfloat16_stays_the_same_backbone(base, backbone):
    parts = components("--base_model", str(base / "fp32"), "--backbone_dtype", "bfloat16")
    assert {parameter.dtype for parameter in parts.backbone.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in parts.head.parameters()} == {torch.float32}
    assert parts.head.config.backbone_fingerprint == backbone.fingerprint


def test_a_head_of_another_size_is_refused_at_the_start(base, make_head, tmp_path):
    make_head(backbone_hidden_size=48).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`init_from` has `backbone_hidden_size` 48, but the backbone has 64"):
        components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path))


FLOW_MATCHING = ["--objective", "flow_matching", "--t_sampling", "uniform"]


def test_a_backbone_from_scratch(vocab_file):
    sizes = ["--backbone_dim", "64", "--backbone_depth", "1", "--backbone_heads", "1", "--backbone_text_dim", "16"]
    parts = components(*FLOW_MATCHING, "--vocab_file", str(vocab_file), *sizes)
    assert parts.trained is parts.backbone and parts.head is None
    assert parts.backbone.config.text_num_embeds == 59
    assert all(parameter.requires_grad for parameter in parts.backbone.parameters())
    assert parts.pipeline().scheduler.num_head_steps == 0


def test_a_backbone_goes_on_from_a_pipeline(base, backbone, vocab_file, tmp_path):
    parts = components(*FLOW_MATCHING, "--vocab_file", str(vocab_file), "--init_from", str(base / "bf16"))
    assert {parameter.dtype for parameter in parts.backbone.parameters()} == {torch.float32}
    assert parts.backbone.fingerprint == backbone.fingerprint
    (tmp_path / "vocab.txt").write_text(" \na\n")
    with pytest.raises(ValueError, match="`vocab_file`.*59 tokens, but got 2"):
        components(*FLOW_MATCHING, "--vocab_file", str(tmp_path / "vocab.txt"), "--init_from", str(base / "fp32"))


def test_a_vocabulary_that_is_not_there():
    with pytest.raises(ValueError, match="`vocab_file`.*'nowhere.txt'"):
        components(*FLOW_MATCHING, "--vocab_file", "nowhere.txt")


GUIDES = [
    "--head_prediction", "guidance", "--baked_guidance_scale", "3", "--baked_guidance_range", "1", "4",
    "--num_head_steps", "1",
]  # fmt: skip
COPIED = [*GUIDES, "--head_architecture", "transformer", "--head_residual_layers"]


def test_a_head_that_says_what_guidance_adds_goes_on(base, guidance_pipeline, tmp_path):
    guidance_pipeline.save_pretrained(tmp_path)
    ends = [*COPIED, "1", "--baked_guidance_end", "0.25"]
    head = components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path), *ends).head
    for one, other in zip(head.parameters(), guidance_pipeline.head.parameters(), strict=True):
        assert torch.equal(one, other)
    # What this run trains for, and not what the other did.
    assert head.config.guidance_end == 0.25 and head.config.mean_mel != guidance_pipeline.head.config.mean_mel
    with pytest.raises(ValueError, match="`head_prediction` must be that of `init_from`, 'guidance', but got 'resid"):
        components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path))


def test_a_bare_checkpoint_has_no_mean_and_a_head_on_it_has_one(make_backbone, vocab_file, monkeypatch):
    monkeypatch.setattr(F5Backbone, "from_f5_checkpoint", lambda *_, **__: make_backbone())
    found = components("--f5_checkpoint", "model.pt", "--vocab_file", str(vocab_file), *COPIED, "1")
    assert (
        found.head.config.mean_mel == found.mean_mel and len(found.mean_mel["mean"]) == found.backbone.config.mel_dim
    )


@pytest.mark.parametrize("options", [[*COPIED, "3"], [*GUIDES, "--head_residual_layers", "3"]])
def test_a_stream_before_more_blocks_than_there_are_is_refused(base, options):
    with pytest.raises(ValueError, match="`head_residual_layers` must be at most the 2 blocks of the backbone"):
        components("--base_model", str(base / "fp32"), *options, *HEAD[2:])


def test_an_earlier_head_that_reads_more_blocks_than_there_are_is_refused(base, make_guidance_head, tmp_path):
    make_guidance_head("conv", residual_layers=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`init_from` has `residual_layers` 3, but the backbone has 2 blocks"):
        components("--base_model", str(base / "fp32"), "--init_from", str(tmp_path), *GUIDES)
