"""The weights of a backbone are known whatever type they are stored in, and another's are not taken for them."""

import pytest
import torch

from dtm_hf import DTMPipeline, F5Backbone
from dtm_hf.backbone.fingerprint import WeightsSketch, other_backbone
from dtm_hf.provenance import Provenance


def in_levels(bits: int):
    """Rounds the rows of matrices to evenly spaced levels, as quantisers do; vectors stay."""

    def quantise(values: torch.Tensor) -> torch.Tensor:
        if values.ndim < 2:
            return values
        step = values.flatten(1).abs().amax(1).clamp(min=1e-9) / (2 ** (bits - 1) - 1)
        step = step.view(-1, *[1] * (values.ndim - 1))
        return (values / step).round() * step

    return quantise


ROUNDINGS = {
    "float16": lambda values: values.half().float(),
    "bfloat16": lambda values: values.bfloat16().float(),
    "float8_e4m3": lambda values: values.to(torch.float8_e4m3fn).float(),
    "float8_e5m2": lambda values: values.to(torch.float8_e5m2).float(),
    "8 bits": in_levels(8),
    "8 bits, then bfloat16": lambda values: in_levels(8)(values).bfloat16().float(),
    "4 bits": in_levels(4),
}


@pytest.fixture(scope="module")
def recorded(make_backbone):
    backbone = make_backbone()
    return Provenance(
        backbone_name="tiny",
        backbone_fingerprint=backbone.fingerprint,
        backbone_sketch=str(WeightsSketch.of(backbone)),
    )


@pytest.fixture
def rounded(make_backbone):
    """Makes a backbone whose weights went through a type, after some share of noise was added to them."""

    def make(rounding, noise: float = 0.0, **kwargs) -> F5Backbone:
        backbone, generator = make_backbone(**kwargs), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in backbone.parameters():
                spread = noise * parameter.norm() / parameter.numel() ** 0.5
                moved = parameter + spread * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(rounding(moved if noise else parameter))
        return backbone

    return make


@pytest.mark.parametrize("name", ROUNDINGS)
def test_a_rounded_copy_is_the_same_backbone(name, rounded, recorded):
    assert other_backbone(recorded, rounded(ROUNDINGS[name])) is None


@pytest.mark.parametrize("name", ROUNDINGS)
def test_another_backbone_is_refused_in_every_type(name, rounded, recorded):
    assert "'tiny'" in other_backbone(recorded, rounded(ROUNDINGS[name], seed=1))


@pytest.mark.parametrize(("name", "noise"), [("float16", 0.01), ("bfloat16", 0.02), ("8 bits", 0.2)])
def test_a_backbone_that_was_trained_on_is_another_where_rounding_lets_it_be_told(name, noise, rounded, recorded):
    assert other_backbone(recorded, rounded(ROUNDINGS[name], noise)) is not None


def test_exact_weights_are_compared_exactly(make_backbone, recorded):
    backbone = make_backbone()
    assert other_backbone(recorded, backbone) is None
    with torch.no_grad():
        backbone.dit.proj_out.weight[0, 0] *= 1.01
    assert other_backbone(recorded, backbone) is not None


def test_what_was_trained_on_a_rounded_copy_knows_the_original(rounded, make_backbone):
    half = rounded(ROUNDINGS["float16"])
    recorded = Provenance(backbone_fingerprint=half.fingerprint, backbone_sketch=str(WeightsSketch.of(half)))
    assert other_backbone(recorded, make_backbone()) is None
    assert other_backbone(recorded, make_backbone(seed=1)) is not None


def test_weights_that_are_stored_in_eight_bits_are_read(make_backbone, recorded):
    backbone = make_backbone()
    backbone.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert backbone.dit.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert other_backbone(recorded, backbone) is None


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_bitsandbytes_quantised_are_read(bits, make_backbone, recorded):
    bnb = pytest.importorskip("bitsandbytes")
    backbone = make_backbone()
    for block in backbone.dit.transformer_blocks:
        for name in ("to_q", "to_k", "to_v"):
            linear, sizes = getattr(block.attn, name), (64, 64)
            new = bnb.nn.Linear4bit(*sizes) if bits == 4 else bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
            new.load_state_dict(linear.state_dict())
            setattr(block.attn, name, new.to("cpu"))
    assert "bitsandbytes" in type(backbone.dit.transformer_blocks[0].attn.to_q.weight).__module__
    assert other_backbone(recorded, backbone) is None


def test_an_old_record_has_the_fingerprint_alone(make_backbone, rounded, recorded):
    old = Provenance(backbone_name="tiny", backbone_fingerprint=recorded.backbone_fingerprint)
    assert other_backbone(old, make_backbone()) is None
    assert other_backbone(old, rounded(ROUNDINGS["bfloat16"])) is None
    assert other_backbone(old, make_backbone(seed=1)) is not None
    assert other_backbone(old, rounded(ROUNDINGS["bfloat16"], seed=1)) is not None
    for name in ("float16", "float8_e4m3", "8 bits"):
        with pytest.warns(UserWarning, match="the name alone is the same"):
            assert other_backbone(old, rounded(ROUNDINGS[name])) is None
        assert other_backbone(old, rounded(ROUNDINGS[name], name="another")) is not None


@pytest.mark.parametrize("sketch", ["", "x", "AAAA", "ä"])
def test_a_sketch_that_is_none_is_refused(sketch, make_backbone, recorded):
    other = Provenance(backbone_fingerprint="0", backbone_sketch=sketch)
    with pytest.raises(ValueError, match="`backbone_sketch`"):
        other_backbone(other, make_backbone())


def test_a_pipeline_in_float16_takes_its_head(
    make_backbone, make_head, tiny_pipeline, recorded, reference_audio, tmp_path
):
    marks = {"backbone_fingerprint": recorded.backbone_fingerprint, "backbone_sketch": recorded.backbone_sketch}
    parts = tiny_pipeline.components | {"backbone": make_backbone(), "head": make_head(**marks)}
    DTMPipeline(**parts).to(torch.float16).save_pretrained(tmp_path)
    for dtype in (torch.float16, torch.float32):
        pipeline = DTMPipeline.from_pretrained(tmp_path, dtype=dtype)
        audio = pipeline("yes", reference_audio, "some words.", num_inference_steps=1).audios[0]
        assert pipeline.head.config.backbone_sketch == recorded.backbone_sketch
        assert len(audio) > 1000 and abs(audio).max() > 0
