"""Official F5-TTS files, written by f5_tts's own classes with a tiny architecture, read into F5Backbone."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import randomise

from dtm_hf import F5Backbone
from dtm_hf.backbone import f5_checkpoint
from dtm_hf.f5_import import import_f5

TINY = {"dim": 64, "depth": 2, "heads": 1, "ff_mult": 2, "text_dim": 32, "conv_layers": 1}
ARCHITECTURES = {
    "v1_base": TINY | {"text_mask_padding": True, "pe_attn_head": None},
    "base": TINY | {"text_mask_padding": False, "pe_attn_head": 1},
    "v1_small": TINY | {"depth": 3},
    "small": TINY | {"dim": 32},
}


@pytest.fixture(autouse=True)
def tiny_variants(monkeypatch):
    """The variants of f5_tts at a size that a test can write: only the architecture table is replaced."""
    monkeypatch.setattr(f5_checkpoint, "variant_config", lambda variant: dict(ARCHITECTURES[variant]))


@pytest.fixture(scope="module")
def model(tokenizer):
    """f5_tts's CFM around its DiT: what its trainer averages and saves."""
    dit = import_f5("f5_tts.model.backbones.dit", chinese=False)
    cfm = import_f5("f5_tts.model.cfm", chinese=False)
    transformer = dit.DiT(**ARCHITECTURES["v1_base"], mel_dim=100, text_num_embeds=tokenizer.vocab_size)
    model = cfm.CFM(transformer=transformer, mel_spec_kwargs={"n_mel_channels": 100})
    randomise(model, seed=3)
    return model.eval()


@pytest.fixture
def state(model):
    """The averaged weights with ema_pytorch's bookkeeping and the buffers that early releases carried."""
    weights = {f"ema_model.{name}": value.clone() for name, value in model.state_dict().items()}
    mel = {"ema_model.mel_spec.mel_stft.mel_scale.fb": torch.ones(5, 3)}
    return {"initted": torch.tensor(True), "step": torch.tensor(1250000)} | weights | mel


def write(state, path):
    if path.suffix == ".pt":
        torch.save({"ema_model_state_dict": state, "step": 7}, path)
    else:
        save_file({key: value for key, value in state.items() if key.startswith("ema_model.")}, path)
    return path


@pytest.fixture(params=["model_1250000.pt", "model_1250000.safetensors"])
def checkpoint(state, tmp_path, request):
    return write(state, tmp_path / request.param)


def test_both_official_forms(checkpoint, model, tokenizer):
    backbone = F5Backbone.from_f5_checkpoint(checkpoint, vocab=tokenizer, variant="v1_base", revision="abc")
    assert (backbone.config.name, backbone.config.revision) == ("F5TTS_v1_Base", "abc")
    assert backbone.config.license == "cc-by-nc-4.0"
    assert not any(parameter.requires_grad for parameter in backbone.parameters()) and not backbone.training
    expected = model.transformer.state_dict()
    assert set(backbone.dit.state_dict()) == set(expected)
    for name, value in backbone.dit.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)
    generator = torch.Generator().manual_seed(0)
    sample, cond = torch.randn(2, 1, 21, 100, generator=generator)
    text_ids = torch.randint(0, 59, (1, 8), generator=generator)
    with torch.no_grad():
        velocity = model.transformer(sample, cond, text_ids, torch.tensor(0.4), cfg_infer=True)
    output = backbone(sample, 0.4, cond, text_ids, branch="both")
    torch.testing.assert_close(output.velocity, velocity, atol=1e-5, rtol=0)


def test_dtype(checkpoint, tokenizer):
    backbone = F5Backbone.from_f5_checkpoint(checkpoint, vocab=tokenizer, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}


def test_vocab_file_gives_the_number_of_tokens(checkpoint, vocab_file):
    backbone = F5Backbone.from_f5_checkpoint(checkpoint, vocab=vocab_file)
    assert backbone.config.text_num_embeds == 59


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("v1_small", r"'v1_small'.*missing: transformer_blocks\.2\..*width 64 and depth 2.*'v1_base', 'base'"),
        ("small", r"'small'.*wrong shape: input_embed\..*\(64,\) instead of \(32,\).*width 64 and depth 2"),
    ],
)
def test_wrong_variant_is_named(checkpoint, tokenizer, variant, message):
    with pytest.raises(ValueError, match=message):
        F5Backbone.from_f5_checkpoint(checkpoint, vocab=tokenizer, variant=variant)


def test_unknown_variant_lists_the_known(monkeypatch, checkpoint):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"`variant`.*'base', 'small', 'v1_base', 'v1_small'.*'v2'"):
        F5Backbone.from_f5_checkpoint(checkpoint, variant="v2")


def test_wrong_vocabulary(checkpoint):
    with pytest.raises(
        ValueError, match=r"2545 tokens.*text_embed\.text_embed\.weight \(60, 32\) instead of \(2546, 32\)"
    ):
        F5Backbone.from_f5_checkpoint(checkpoint)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_missing_and_unexpected_weights_are_named(state, tmp_path, tokenizer, suffix):
    value = state.pop("ema_model.transformer.norm_out.linear.bias")
    state["ema_model.transformer.norm_out.linear.offset"] = value
    path = write(state, tmp_path / f"model{suffix}")
    with pytest.raises(ValueError, match=r"missing: norm_out\.linear\.bias; unexpected: norm_out\.linear\.offset"):
        F5Backbone.from_f5_checkpoint(path, vocab=tokenizer)


def test_truncated_file(checkpoint, tokenizer):
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"{checkpoint.name}.*cannot be read"):
        F5Backbone.from_f5_checkpoint(checkpoint, vocab=tokenizer)


def test_another_models_file(tmp_path, tokenizer):
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not an F5-TTS checkpoint.*encoder\.weight"):
        F5Backbone.from_f5_checkpoint(tmp_path / "model.safetensors", vocab=tokenizer)
    torch.save({"state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"no `ema_model_state_dict`.*state_dict"):
        F5Backbone.from_f5_checkpoint(tmp_path / "model.pt", vocab=tokenizer)


def test_absent_file(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt.*hf://org/repo/path"):
        F5Backbone.from_f5_checkpoint(tmp_path / "nowhere.pt", vocab=tokenizer)


class _Payload:
    """What a malicious checkpoint does on loading: it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_is_refused(state, tmp_path, tokenizer):
    trace = tmp_path / "was-executed"
    pickle.loads(pickle.dumps(_Payload(trace)))
    assert trace.exists(), "the payload must work where it is not refused"
    trace.rmdir()
    torch.save({"ema_model_state_dict": state, "extra": _Payload(trace)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        F5Backbone.from_f5_checkpoint(tmp_path / "model.pt", vocab=tokenizer)
    assert not trace.exists()


def test_a_saved_conversion_is_the_same_backbone(checkpoint, tokenizer, tmp_path):
    backbone = F5Backbone.from_f5_checkpoint(checkpoint, vocab=tokenizer)
    backbone.save_pretrained(tmp_path / "converted")
    assert F5Backbone.from_pretrained(tmp_path / "converted").fingerprint == backbone.fingerprint
    assert "ema_model" not in "".join(load_file(next((tmp_path / "converted").glob("*.safetensors"))))


def test_real_variants_have_the_published_shapes(monkeypatch):
    monkeypatch.undo()
    counts = {}
    for variant in f5_checkpoint.VARIANTS:
        config = f5_checkpoint.variant_config(variant)
        with torch.device("meta"):
            backbone = F5Backbone(**config)
        counts[variant] = sum(parameter.numel() for parameter in backbone.parameters())
        blocks = backbone.dit.transformer_blocks
        assert (backbone.config.dim, len(blocks)) == ((1024, 22) if "base" in variant else (768, 18))
        assert backbone.config.text_mask_padding == variant.startswith("v1")
        assert backbone.config.pe_attn_head == (None if variant.startswith("v1") else 1)
    assert counts["v1_base"] == counts["base"] == 337_096_804
    # The published 335.8 M leaves out the table of token embeddings.
    assert round((counts["base"] - 2546 * 512) / 1e6, 1) == 335.8
    assert counts["v1_small"] == counts["small"]
    assert len(f5_checkpoint.default_vocab().read_text(encoding="utf-8").splitlines()) == 2545


WRAPPED = {
    "trained weights alone": lambda state, raw: {"model_state_dict": raw, "step": 3, "optimizer_state_dict": {}},
    "flat": lambda state, raw: state,
    "flat, not averaged": lambda state, raw: raw,
    "compiled": lambda state, raw: {
        "model_state_dict": {k.replace("transformer.", "transformer._orig_mod."): v for k, v in raw.items()}
    },
    "compiled as a whole": lambda state, raw: {"model_state_dict": {f"_orig_mod.{k}": v for k, v in raw.items()}},
    "data parallel": lambda state, raw: {"model_state_dict": {f"module.{k}": v for k, v in raw.items()}},
    "all of it": lambda state, raw: {
        "ema_model_state_dict": {f"ema_model.module._orig_mod.{k}": v for k, v in raw.items()} | {"step": 3}
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_checkpoints_as_people_have_them(name, state, model, tokenizer, tmp_path):
    raw = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(WRAPPED[name](state, raw), tmp_path / "model_last.pt")
    backbone = F5Backbone.from_f5_checkpoint(tmp_path / "model_last.pt", vocab=tokenizer, variant="v1_base")
    expected = model.transformer.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.dit.state_dict().items())


def test_trained_weights_on_request(state, model, tokenizer, tmp_path):
    path = tmp_path / "F5TTS_v1_Base" / "model_last.pt"
    path.parent.mkdir()
    trained = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save({"ema_model_state_dict": state, "model_state_dict": trained}, path)
    name = "proj_out.bias"
    for use_ema, moved in ((True, 0), (False, 1)):
        backbone = F5Backbone.from_f5_checkpoint(path, vocab=tokenizer, use_ema=use_ema)
        expected = model.transformer.state_dict()[name] + moved
        torch.testing.assert_close(backbone.dit.state_dict()[name], expected)
    write(state, path)
    with pytest.raises(ValueError, match="averaged weights alone"):
        F5Backbone.from_f5_checkpoint(path, vocab=tokenizer, use_ema=False)


@pytest.mark.parametrize(
    ("path", "variant", "chosen", "warning"),
    [
        ("F5TTS_Base/model_1200000.pt", None, "F5TTS_Base", None),
        ("f5tts_v1_base/model_1250000.pt", None, "F5TTS_v1_Base", None),
        ("mine/model.pt", None, "F5TTS_v1_Base", "can be of the variants v1_base, base"),
        ("mine/model.pt", "base", "F5TTS_Base", None),
        ("F5TTS_Base/model.pt", "v1_base", "F5TTS_v1_Base", "is named as F5TTS_Base, and is read as"),
    ],
)
def test_what_looks_alike_is_told_by_the_path_or_said(
    path, variant, chosen, warning, state, tokenizer, tmp_path, recwarn
):
    path = tmp_path / path
    path.parent.mkdir()
    backbone = F5Backbone.from_f5_checkpoint(write(state, path), vocab=tokenizer, variant=variant)
    assert backbone.config.name == chosen
    said = [str(found.message) for found in recwarn if "`checkpoint`" in str(found.message)]
    assert len(said) == (warning is not None) and all(warning in message for message in said)


def test_the_refusal_of_a_pickle_gives_no_advice_to_run_it(tmp_path, tokenizer):
    torch.save({"model_state_dict": _Payload(tmp_path / "was-executed")}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="could run code of others") as caught:
        F5Backbone.from_f5_checkpoint(tmp_path / "model.pt", vocab=tokenizer)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1], {"model_state_dict": {"transformer.proj_out.weight": 3}}, {3: torch.ones(1)}]
)
def test_what_is_no_state_dict_is_refused(content, tmp_path, tokenizer):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="`checkpoint` .*model.pt"):
        F5Backbone.from_f5_checkpoint(tmp_path / "model.pt", vocab=tokenizer)
