"""The flow head: its size, its forms, what it may see, and how it is saved."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel

from dtm_hf import DTMHead, DTMHeadConfig


def random_inputs(size=3, frames=11, features=64, bins=100, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(width):
        return torch.randn(size, frames, width, generator=generator)

    return normal(features), normal(bins), normal(bins)


def masked(lengths, frames):
    return torch.arange(frames)[None] < torch.tensor(lengths)[:, None]


def test_parameter_count_of_the_default():
    with torch.device("meta"):
        head = DTMHead(DTMHeadConfig())
    assert sum(parameter.numel() for parameter in head.parameters()) == 19_267_172


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_untrained_residual_head_is_the_backbones_mean(make_head, architecture):
    head = make_head(random_weights=False, architecture=architecture)
    h, y, v = random_inputs()
    output = head(h, y, 0.25, timestep=0.5, velocity=v)
    assert torch.equal(output.displacement, v)
    torch.testing.assert_close(output.velocity, (v - y) / 0.75)


def test_untrained_direct_head_depends_on_nothing_yet(make_head):
    """Its blocks are the identity at the start, as those of the residual head are; its output is not zero."""
    head = make_head(random_weights=False, prediction="direct")
    h, y, v = random_inputs()
    early = head(h, y, 0.0, timestep=0.1, velocity=v).velocity
    late = head(h, y, 0.9, timestep=0.8, velocity=v).velocity
    assert torch.equal(early, late) and early.std() > 0.1


@pytest.mark.parametrize("prediction", ["residual", "direct"])
def test_velocity_points_at_the_displacement(make_head, prediction):
    head = make_head(prediction=prediction)
    h, y, v = random_inputs()
    s = torch.tensor([0.0, 0.4, 0.95])
    output = head(h, y, s, timestep=0.3, velocity=v)
    torch.testing.assert_close(output.displacement, y + (1 - s[:, None, None]) * output.velocity)
    other = head(h, y, s, timestep=0.3, velocity=v + 1)
    assert torch.equal(other.displacement, output.displacement) == (prediction == "direct")


def test_division_near_the_end_is_bounded(make_head):
    head = make_head()
    h, y, v = random_inputs()
    output = head(h, y, 1.0, timestep=0.3, velocity=v)
    torch.testing.assert_close(output.velocity, (output.displacement - y) / head.config.min_flow_remainder)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_every_input_matters(make_head, architecture):
    head = make_head(architecture=architecture)
    h, y, v = random_inputs()
    reference = head(h, y, 0.2, timestep=0.4, velocity=v).displacement
    for changed in (
        head(h + 0.1, y, 0.2, timestep=0.4, velocity=v),
        head(h, y + 0.1, 0.2, timestep=0.4, velocity=v),
        head(h, y, 0.3, timestep=0.4, velocity=v),
        head(h, y, 0.2, timestep=0.5, velocity=v),
    ):
        assert (changed.displacement - reference).abs().max() > 1e-3


def test_times_as_number_row_and_frame_agree(make_head):
    head = make_head(architecture="conv")
    h, y, v = random_inputs()
    number = head(h, y, 0.3, timestep=0.6, velocity=v).velocity
    for s in (torch.tensor(0.3), torch.full((3,), 0.3), torch.full((3, 11), 0.3)):
        for t in (torch.tensor(0.6), torch.full((3,), 0.6)):
            torch.testing.assert_close(head(h, y, s, timestep=t, velocity=v).velocity, number)
    s, t = torch.tensor([0.0, 0.3, 0.9]), torch.tensor([0.5, 0.0, 0.7])
    rows = head(h, y, s, timestep=t, velocity=v).velocity
    for i in range(3):
        row = slice(i, i + 1)
        alone = head(h[row], y[row], float(s[i]), timestep=float(t[i]), velocity=v[row]).velocity
        # Rounding differs with the size of a batch and the threads, and at s=0.9 it is divided by 1 - s.
        torch.testing.assert_close(rows[row], alone, atol=1e-4, rtol=1e-4)


def test_a_time_per_frame_is_that_frames_time(make_head):
    head = make_head(architecture="mlp")
    h, y, v = random_inputs(size=1)
    s = torch.linspace(0, 0.9, 11)[None]
    frames = head(h, y, s, timestep=0.5, velocity=v).velocity
    for n in (0, 4, 10):
        torch.testing.assert_close(frames[:, n], head(h, y, float(s[0, n]), timestep=0.5, velocity=v).velocity[:, n])


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("prediction", ["residual", "direct"])
def test_prepared_parts_give_the_plain_forward(make_head, architecture, prediction):
    head = make_head(architecture=architecture, prediction=prediction)
    h, y, v = random_inputs()
    mask = masked([11, 4, 7], 11)
    timesteps, flow_times = torch.tensor([0.0, 0.3, 0.7]), torch.tensor([0.0, 0.5])
    modulations = head.prepare_schedule(timesteps, flow_times)
    states = head.prepare(h)
    for i, t in enumerate(timesteps):
        for j, s in enumerate(flow_times):
            plain = head(h, y, s, timestep=t, velocity=v, attention_mask=mask)
            given = {"prepared_states": states, "modulation": modulations[i, j]}
            prepared = head(None, y, s, timestep=t, velocity=v, attention_mask=mask, **given)
            torch.testing.assert_close(prepared.velocity, plain.velocity)
            torch.testing.assert_close(prepared.displacement, plain.displacement)


def test_one_features_row_serves_several_draws(make_head):
    head = make_head(architecture="conv")
    h, _, v = random_inputs(size=2)
    _, y, _ = random_inputs(size=6, seed=1)
    s, mask = torch.rand(6), masked([11, 5], 11).repeat(3, 1)
    t = torch.tensor([0.1, 0.8]).repeat(3)
    shared = head(h, y, s, timestep=t, velocity=v.repeat(3, 1, 1), attention_mask=mask)
    repeated = head(h.repeat(3, 1, 1), y, s, timestep=t, velocity=v.repeat(3, 1, 1), attention_mask=mask)
    torch.testing.assert_close(shared.velocity, repeated.velocity)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("prediction", ["residual", "direct"])
def test_padding_is_not_seen(make_head, architecture, prediction):
    head = make_head(architecture=architecture, prediction=prediction)
    lengths = [11, 4, 7]
    h, y, v = random_inputs()
    mask = masked(lengths, 11)
    batch = head(h, y, 0.4, timestep=0.2, velocity=v, attention_mask=mask).velocity
    dirty = [part.masked_fill(~mask[..., None], float("inf")) for part in (h, y, v)]
    other = head(dirty[0], dirty[1], 0.4, timestep=0.2, velocity=dirty[2], attention_mask=mask).velocity
    torch.testing.assert_close(other[mask], batch[mask], atol=0, rtol=0)
    for i, n in enumerate(lengths):
        row = slice(i, i + 1)
        alone = head(h[row, :n], y[row, :n], 0.4, timestep=0.2, velocity=v[row, :n]).velocity
        torch.testing.assert_close(batch[row, :n], alone, atol=1e-5, rtol=0)
    if architecture == "conv":
        unmasked = head(h, y, 0.4, timestep=0.2, velocity=v).velocity
        assert (unmasked[mask] - batch[mask]).abs().max() > 1e-3


def test_only_the_conv_head_sees_neighbours(make_head):
    h, y, v = random_inputs(size=1)
    changed = y.clone()
    changed[:, 5] += 1.0
    for architecture, reach in (("mlp", 0), ("conv", 6)):
        head = make_head(architecture=architecture)
        one, two = (head(h, state, 0.4, timestep=0.2, velocity=v).displacement for state in (y, changed))
        differs = (one - two).abs().amax(dim=(0, 2)) > 1e-6
        expected = (torch.arange(11) - 5).abs() <= reach
        assert torch.equal(differs, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(make_head, tmp_path, dtype):
    head = make_head(architecture="conv", guidance_scale=3, backbone_fingerprint="00ff", sampler={"num_head_steps": 4})
    head.to(dtype).save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    inputs = random_inputs()
    expected = head(inputs[0], inputs[1], 0.4, timestep=0.2, velocity=inputs[2])
    assert expected.velocity.dtype == torch.float32
    for loader in (DTMHead, AutoModel):
        loaded = loader.from_pretrained(tmp_path, dtype=dtype)
        assert type(loaded) is DTMHead and not loaded.training
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        output = loaded(inputs[0], inputs[1], 0.4, timestep=0.2, velocity=inputs[2])
        torch.testing.assert_close(output.velocity, expected.velocity, atol=0, rtol=0)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is DTMHeadConfig
    for name in ("architecture", "guidance_scale", "backbone_fingerprint", "sampler", "hidden_size"):
        assert getattr(config, name) == getattr(head.config, name)


def test_loading_half_the_dtype_does_not_fall_to_meta_initialisation(make_head, tmp_path):
    head = make_head()
    head.save_pretrained(tmp_path)
    loaded = DTMHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for (name, one), two in zip(head.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.to(torch.bfloat16), two), name


@pytest.mark.parametrize("prediction", ["residual", "direct"])
def test_zero_initialisation_survives_every_way_to_build_one(make_head, tmp_path, prediction):
    config = make_head(prediction=prediction).config
    partial = DTMHead(config)
    partial.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if name.startswith(("output_proj", "modulation_proj", "blocks.0"))]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit: the file lacks .'blocks.0.linear_in.bias'"):
        DTMHead.from_pretrained(tmp_path)
    for head in (DTMHead(config), AutoModel.from_config(config)):
        assert not head.modulation_proj.weight.any() and not head.modulation_proj.bias.any()
        assert head.output_proj.weight.any() == (prediction == "direct")
        assert not head.output_proj.bias.any()
        # Xavier's bound for 32 -> 128, reached nearly: not garbage, not zero.
        bound = (6 / (32 + 128)) ** 0.5
        assert 0.9 * bound < head.blocks[0].linear_in.weight.abs().max() <= bound


def test_gradient_checkpointing_changes_no_gradient(make_head):
    h, y, v = random_inputs()
    mask = masked([11, 4, 7], 11)
    gradients = []
    for checkpointing in (False, True):
        head = make_head(architecture="conv").train()
        if checkpointing:
            head.gradient_checkpointing_enable()
            assert head.is_gradient_checkpointing
        output = head(h, y, torch.rand(3, generator=torch.Generator().manual_seed(0)), timestep=0.2, velocity=v,
                      attention_mask=mask)  # fmt: skip
        output.displacement[mask].square().mean().backward()
        gradients.append([parameter.grad for parameter in head.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": "noise"}, r"`prediction`.*'residual', 'direct'.*'noise'"),
        ({"architecture": "lstm"}, r"`architecture`.*'mlp', 'conv'.*'lstm'"),
        ({"conv_kernel_size": 4}, "`conv_kernel_size`.*odd.*4"),
        ({"time_embed_dim": 7}, "`time_embed_dim`.*even.*7"),
        ({"min_flow_remainder": 0.0}, "`min_flow_remainder`.*0.0"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers`.*0"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(Exception, match=message):
        DTMHeadConfig(**change)


@pytest.mark.parametrize("shape", [(2,), (3, 10), (3, 11, 1)])
def test_a_time_that_fits_nothing_is_refused(make_head, shape):
    h, y, v = random_inputs()
    with pytest.raises(ValueError, match="[Tt]ime"):
        make_head()(h, y, torch.zeros(shape), timestep=0.2, velocity=v)


def test_any_model_of_transformers_may_be_imported_first():
    # Its layers import the Auto classes halfway, and with them the head.
    code = "import dtm_hf; from transformers import CLIPTextModel, AutoConfig; print(AutoConfig.for_model('dtm_head'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("DTMHeadConfig"), done.stderr
