"""F5Backbone against f5_tts's own DiT on the same weights, and against itself: batched, saved, frozen."""

import json
import subprocess
import sys

import pytest
import torch

from dtm_hf import F5Backbone
from dtm_hf.f5_import import import_f5


def random_inputs(lengths, seed=0, text_lengths=None):
    """A padded batch: X_t, condition (first quarter), text ids, mask."""
    generator = torch.Generator().manual_seed(seed)
    size, frames = len(lengths), max(lengths)
    text_lengths = text_lengths or [max(2, length // 3) for length in lengths]
    mask = torch.arange(frames)[None] < torch.tensor(lengths)[:, None]
    sample = torch.randn(size, frames, 100, generator=generator) * mask[..., None]
    cond = torch.randn(size, frames, 100, generator=generator) * mask[..., None]
    cond[:, min(lengths) // 4 :] = 0.0
    text_ids = torch.randint(0, 59, (size, max(text_lengths)), generator=generator)
    text_ids[torch.arange(max(text_lengths))[None] >= torch.tensor(text_lengths)[:, None]] = -1
    return sample, cond, text_ids, mask


@pytest.fixture(scope="module")
def raw_dit(backbone):
    """f5_tts's DiT as its shipped configurations build it, with the weights of the shared backbone."""
    names = "dim depth heads dim_head dropout ff_mult mel_dim text_num_embeds text_dim text_mask_padding conv_layers"
    config = {name: backbone.config[name] for name in names.split()} | {"attn_mask_enabled": False}
    dit = import_f5("f5_tts.model.backbones.dit", chinese=False).DiT(**config)
    dit.load_state_dict(backbone.dit.state_dict())
    return dit.eval()


@pytest.mark.parametrize("branch", ["cond", "null", "both"])
def test_equals_the_dit_of_f5_tts(backbone, raw_dit, branch):
    sample, cond, text_ids, _ = random_inputs([37])
    t = torch.tensor(0.3)
    with torch.no_grad():
        output = backbone(sample, t, cond, text_ids, branch=branch)
        null, both = branch == "null", branch == "both"
        expected = raw_dit(sample, cond, text_ids, t, drop_audio_cond=null, drop_text=null, cfg_infer=both)
    assert output.velocity.shape == expected.shape
    assert output.velocity.std() > 0.1
    torch.testing.assert_close(output.velocity, expected, atol=1e-5, rtol=0)


def test_features_are_what_proj_out_reads(backbone):
    sample, cond, text_ids, _ = random_inputs([29])
    for branch, rows in (("cond", 1), ("both", 2)):
        output = backbone(sample, 0.7, cond, text_ids, branch=branch)
        assert output.features.shape == (rows, 29, 64)
        torch.testing.assert_close(output.velocity, backbone.dit.proj_out(output.features))
    assert not backbone.dit.proj_out._forward_pre_hooks
    assert backbone.dit.text_cond is None and backbone.dit.text_uncond is None


@pytest.mark.parametrize(
    "overrides",
    [
        {"text_mask_padding": True, "pe_attn_head": None},
        {"text_mask_padding": False, "pe_attn_head": 1, "heads": 2},
        {"text_embedding_average_upsampling": True},
    ],
    ids=["v1", "v0", "average_upsampling"],
)
def test_a_padded_batch_gives_what_its_items_give(make_backbone, overrides):
    backbone = make_backbone(**overrides)
    lengths = [41, 23, 33]
    sample, cond, text_ids, mask = random_inputs(lengths)
    t = torch.tensor([0.0, 0.4, 0.9])
    batch = backbone(sample, t, cond, text_ids, mask, branch="both")
    unmasked = backbone(sample, t, cond, text_ids, branch="both")
    for i, n in enumerate(lengths):
        ids = text_ids[i : i + 1][:, text_ids[i] != -1]
        item = backbone(sample[i : i + 1, :n], t[i : i + 1], cond[i : i + 1, :n], ids, branch="both")
        for row, alone in ((i, 0), (i + len(lengths), 1)):
            torch.testing.assert_close(batch.velocity[row, :n], item.velocity[alone], atol=1e-4, rtol=0)
            torch.testing.assert_close(batch.features[row, :n], item.features[alone], atol=1e-4, rtol=0)
            if n < max(lengths):
                assert (unmasked.velocity[row, :n] - item.velocity[alone]).abs().max() > 1e-3


def test_what_is_in_the_padding_does_not_matter(backbone):
    sample, cond, text_ids, mask = random_inputs([31, 19])
    clean = backbone(sample, 0.5, cond, text_ids, mask)
    dirty = backbone(
        sample.masked_fill(~mask[..., None], 50.0), 0.5, cond.masked_fill(~mask[..., None], -50.0), text_ids, mask
    )
    torch.testing.assert_close(dirty.velocity[mask], clean.velocity[mask])
    torch.testing.assert_close(dirty.features[mask], clean.features[mask])


def test_text_is_encoded_once_for_all_steps(backbone):
    sample, cond, text_ids, mask = random_inputs([31, 19])
    embeds = backbone.encode_text(text_ids, mask, 31)
    for branch in ("cond", "null", "both"):
        given = backbone(sample, 0.2, cond, None, mask, branch=branch, text_embeds=embeds)
        computed = backbone(sample, 0.2, cond, text_ids, mask, branch=branch)
        torch.testing.assert_close(given.velocity, computed.velocity)


def test_encoding_text_brings_an_offloaded_backbone_back(make_backbone):
    """`enable_model_cpu_offload` moves a component by a hook on `forward`; text is encoded before the first one."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Onload(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    backbone, hook = make_backbone(), Onload()
    add_hook_to_module(backbone, hook)
    backbone.encode_text(random_inputs([31, 19])[2], None, 31)
    assert hook.calls == 1


def test_text_is_dropped_row_by_row(backbone):
    sample, cond, text_ids, mask = random_inputs([25, 25, 18])
    drop = torch.tensor([True, False, True])
    silent = torch.zeros_like(cond)
    kept = backbone(sample, 0.1, silent, text_ids, mask)
    null = backbone(sample, 0.1, silent, text_ids, mask, branch="null")
    mixed = backbone(sample, 0.1, silent, text_ids, mask, drop_text=drop)
    assert (kept.velocity[mask] - null.velocity[mask]).abs().max() > 1e-2
    torch.testing.assert_close(mixed.velocity[drop], null.velocity[drop])
    torch.testing.assert_close(mixed.velocity[~drop], kept.velocity[~drop])


def test_frozen_stays_frozen(make_backbone):
    backbone = make_backbone()
    parent = torch.nn.Sequential(backbone, torch.nn.Linear(2, 2))
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())

    backbone.unfreeze().train()
    assert all(module.training for module in backbone.modules())
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    backbone.freeze()
    parent.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_fingerprint_is_that_of_the_weights(make_backbone, tmp_path):
    backbone = make_backbone()
    fingerprint = backbone.fingerprint
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    assert make_backbone().fingerprint == fingerprint
    assert make_backbone(name="another name").fingerprint == fingerprint
    assert make_backbone(seed=1).fingerprint != fingerprint
    backbone.save_pretrained(tmp_path / "fp32")
    assert F5Backbone.from_pretrained(tmp_path / "fp32").fingerprint == fingerprint
    half = F5Backbone.from_pretrained(tmp_path / "fp32", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == fingerprint
    half.save_pretrained(tmp_path / "bf16")
    assert F5Backbone.from_pretrained(tmp_path / "bf16", dtype=torch.float32).fingerprint == fingerprint


def test_fingerprint_follows_a_change_of_weights(make_backbone):
    backbone, other = make_backbone(), make_backbone(seed=1)
    before = backbone.fingerprint
    backbone.dit.load_state_dict(other.dit.state_dict())
    assert backbone.fingerprint == other.fingerprint != before
    with torch.no_grad():
        backbone.dit.proj_out.bias[0] += 1.0
    assert backbone.fingerprint not in (before, other.fingerprint)


@pytest.mark.parametrize("max_shard_size", ["5GB", "200KB"])
def test_save_and_load(backbone, tmp_path, max_shard_size):
    backbone.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) == 1 if max_shard_size == "5GB" else len(shards) > 2
    loaded = F5Backbone.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training
    for name in ("dim", "depth", "text_num_embeds", "name", "license"):
        assert loaded.config[name] == backbone.config[name]
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        torch.testing.assert_close(
            dict([*loaded.named_parameters(), *loaded.named_buffers()])[name], tensor, atol=0, rtol=0
        )
    sample, cond, text_ids, mask = random_inputs([31, 19])
    torch.testing.assert_close(
        loaded(sample, 0.5, cond, text_ids, mask).velocity, backbone(sample, 0.5, cond, text_ids, mask).velocity
    )


def positions(backbone, frames=2000):
    return backbone.dit.rotary_embed.forward_from_seq_len(frames)[0].float()


def test_bfloat16_keeps_the_positions(make_backbone, tmp_path):
    backbone = make_backbone()
    expected, text_positions = positions(backbone), backbone.dit.text_embed.freqs_cis.clone()
    backbone.save_pretrained(tmp_path / "fp32")
    cast = make_backbone().to(torch.bfloat16)
    cast.save_pretrained(tmp_path / "bf16")
    loaded = [F5Backbone.from_pretrained(tmp_path / name, dtype=torch.bfloat16) for name in ("fp32", "bf16")]
    for copy in (cast, *loaded):
        assert all(parameter.dtype == torch.bfloat16 for parameter in copy.parameters())
        # Rounded frequencies would be off by whole turns here.
        torch.testing.assert_close(positions(copy), expected, atol=1e-2, rtol=0)
        torch.testing.assert_close(copy.dit.text_embed.freqs_cis.float(), text_positions, atol=4e-3, rtol=0)
        sample, cond, text_ids, mask = random_inputs([31, 19])
        output = copy(sample, 0.5, cond, text_ids, mask)
        assert output.features.dtype == output.velocity.dtype == torch.bfloat16
        exact = backbone(sample, 0.5, cond, text_ids, mask).velocity
        assert (output.velocity.float() - exact)[mask].norm() < 0.05 * exact[mask].norm()


def test_bfloat16_and_back_loses_no_buffer(make_backbone):
    backbone, reference = make_backbone(), make_backbone()
    backbone.to(torch.bfloat16).to(torch.float32)
    torch.testing.assert_close(positions(backbone), positions(reference), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        backbone.dit.text_embed.freqs_cis, reference.dit.text_embed.freqs_cis, atol=1e-6, rtol=0
    )


def test_gradients_flow_only_when_unfrozen(make_backbone):
    backbone = make_backbone()
    sample, cond, text_ids, mask = random_inputs([17, 12])
    assert not backbone(sample, 0.5, cond, text_ids, mask).velocity.requires_grad
    backbone.unfreeze().train()
    backbone.enable_gradient_checkpointing()
    torch.manual_seed(0)
    backbone(sample, 0.5, cond, text_ids, mask).velocity[mask].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branch": "uncond"}, "`branch`.*'uncond'"),
        ({"text_ids": None}, "`text_ids` and `text_embeds`"),
        ({"sample": torch.zeros(1, 9, 80)}, r"`sample`.*\(1, 9, 80\)"),
        ({"cond": torch.zeros(1, 8, 100)}, r"`cond`.*\(1, 8, 100\)"),
        ({"attention_mask": torch.ones(1, 8, dtype=torch.bool)}, r"`attention_mask`.*\(1, 8\)"),
        ({"timestep": torch.zeros(3)}, r"`timestep`.*\(3,\)"),
        ({"text_ids": torch.zeros(2, 4, dtype=torch.long)}, r"`text_ids`.*\(2, 4\)"),
    ],
)
def test_bad_input_is_refused(backbone, change, message):
    inputs = {
        "sample": torch.zeros(1, 9, 100),
        "timestep": 0.5,
        "cond": torch.zeros(1, 9, 100),
        "text_ids": torch.zeros(1, 4, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        backbone(**inputs | change)


def test_building_one_imports_neither_the_trainer_nor_chinese():
    code = """
import json, sys
from dtm_hf import F5Backbone
F5Backbone(dim=64, depth=1, heads=1, text_num_embeds=9, text_dim=16, conv_layers=1)
unwanted = {"pypinyin", "rjieba", "wandb", "librosa", "datasets"}
early = [name for name in sys.modules if name.split(".")[0] in unwanted or name == "f5_tts.model"]
from dtm_hf.f5_import import import_f5
dit = import_f5("f5_tts.model.backbones.dit")
import f5_tts.model
json.dump({"early": early, "same": f5_tts.model.DiT is dit.DiT}, sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"early": [], "same": True}
