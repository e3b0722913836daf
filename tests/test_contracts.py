"""What can be exchanged in a pipeline keeps the contract of its room: one test each, in which each class is a row."""

import inspect
from contextlib import contextmanager, nullcontext

import pytest
import torch
from tiny_speecht5 import tiny_hifigan

from dtm_hf import (
    DTMHead,
    F5Backbone,
    GriffinLimVocoder,
    PortedBackbone,
    PortedHead,
    PortedSpeechT5,
    PortedVocoder,
    VocosVocoder,
)
from dtm_hf.backbone.contract import Backbone
from dtm_hf.evaluation.oracle import OracleHead, oracle_head
from dtm_hf.head.contract import Head
from dtm_hf.speecht5.generation import EagerSteps, Steps
from dtm_hf.vocoder.contract import Vocoder
from dtm_hf.vocoder.hifigan import HifiGan

LENGTHS = (14, 9)
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])


@pytest.mark.parametrize(
    ("contract", "implementation"),
    [
        (Backbone, F5Backbone),
        (Backbone, PortedBackbone),
        (Head, DTMHead),
        (Head, PortedHead),
        (Head, OracleHead),
        (Vocoder, GriffinLimVocoder),
        (Vocoder, VocosVocoder),
        (Vocoder, PortedVocoder),
        (Vocoder, HifiGan),
        (Steps, EagerSteps),
        (Steps, PortedSpeechT5),
    ],
)
def test_every_argument_of_the_contract_is_taken(contract, implementation):
    for name, method in vars(contract).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            keywords = {parameter: None for parameter in inspect.signature(method).parameters}
            inspect.signature(getattr(implementation, name)).bind(**keywords)


@pytest.fixture(scope="module")
def states():
    """X_t, the prompts and Y_s of two rows, 0 past the end of the second; the mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTHS[0])[None] < torch.tensor(LENGTHS)[:, None]
    return *(torch.randn(2, LENGTHS[0], 100, generator=generator) * mask[..., None] for _ in range(3)), mask


def row(tensor, i):
    return tensor[i : i + 1, : LENGTHS[i]]


# Backbones


@pytest.fixture(params=["backbone", "student", "student of one number of steps", "port"])
def any_backbone(request, make_backbone):
    if request.param == "port":
        return PortedBackbone.from_pretrained(request.getfixturevalue("port"), subfolder="backbone")
    overrides = {"student": {"step_counts": [1, 2, 4]}, "student of one number of steps": {"step_counts": [4]}}
    return make_backbone(**overrides.get(request.param, {}))


def test_a_backbone_predicts_as_a_pipeline_asks(any_backbone, states):
    x_t, cond, _, mask = states
    config = any_backbone.config
    assert (config.mel_dim, config.dim) == (100, 64) and len(any_backbone.fingerprint) == 16
    assert {"text_num_embeds", "step_counts", "name", "revision", "license", "training_data"} <= set(config)
    embeds = any_backbone.encode_text(IDS, mask, LENGTHS[0])
    answers = {}
    for branch in ("cond", "null", "both"):
        output = any_backbone(x_t, 0.3, cond, None, mask, branch, text_embeds=embeds, num_steps=4)
        rows = 4 if branch == "both" else 2
        assert output.velocity.shape == (rows, LENGTHS[0], 100) and output.features.shape == (rows, LENGTHS[0], 64)
        answers[branch] = output.velocity[mask if rows == 2 else torch.cat([mask, mask])]
    torch.testing.assert_close(answers["both"], torch.cat([answers["cond"], answers["null"]]), atol=1e-4, rtol=1e-4)
    assert (answers["cond"] - answers["null"]).abs().max() > 1e-3
    embeds = any_backbone.encode_text(IDS, mask, LENGTHS[0], with_null=False)
    cond_alone = any_backbone(x_t, 0.3, cond, None, mask, "cond", text_embeds=embeds, num_steps=4).velocity
    torch.testing.assert_close(cond_alone[mask], answers["cond"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("branch", ["cond", "null"])
def test_a_padded_batch_of_a_backbone_is_its_items(any_backbone, states, branch):
    x_t, cond, _, mask = states
    embeds = any_backbone.encode_text(IDS, mask, LENGTHS[0])
    together = any_backbone(x_t, 0.3, cond, None, mask, branch, text_embeds=embeds, num_steps=4)
    for i in range(2):
        ids = IDS[i : i + 1, : int((IDS[i] >= 0).sum())]
        alone = any_backbone(row(x_t, i), 0.3, row(cond, i), ids, None, branch, num_steps=4)
        for name in ("velocity", "features"):
            torch.testing.assert_close(row(together[name], i), alone[name], atol=1e-4, rtol=1e-4)


# Heads


HEADS = {
    "mlp": {"architecture": "mlp"},
    "conv": {"architecture": "conv"},
    "direct": {"prediction": "direct"},
    "guidance baked in": {"guidance_scale": 2.0},
    "any guidance baked in": {"guidance_scale": 2.0, "guidance_scale_range": [1.0, 3.0]},
    "oracle": None,
    "port": None,
}


@pytest.fixture(params=HEADS)
def any_head(request, make_head):
    """A function from a backbone to a context with the head on it."""
    if request.param == "port":
        head = PortedHead.from_pretrained(request.getfixturevalue("port"), subfolder="head")
        return lambda backbone: nullcontext(head)
    settings = HEADS[request.param]
    return oracle_head if settings is None else lambda backbone: nullcontext(make_head(**settings))


@contextmanager
def asking(any_head, backbone, x_t, cond, ids, mask, branch):
    """What a global step asks a head with, after the pass of the backbone: a function of the inner time and Y_s."""
    timesteps, flow_times = torch.tensor([0.1, 0.4]), torch.tensor([0.0, 0.5])
    with any_head(backbone) as head, torch.no_grad():
        scale = head.config.guidance_scale
        low, high = head.config.guidance_scale_range or (scale, scale)
        assert scale is None or low <= scale <= high
        modulations = head.prepare_schedule(timesteps, flow_times, scale)
        output = backbone(x_t, timesteps[1], cond, ids, mask, branch)
        prepared = head.prepare(output.features)
        mask = mask if mask is None or branch == "cond" else torch.cat([mask, mask])

        def ask(j, y):
            return head(
                None,
                y,
                flow_times[j],
                timestep=timesteps[1],
                velocity=output.velocity.float(),
                attention_mask=mask,
                prepared_states=prepared,
                modulation=modulations[1][j],
            )

        yield ask


@pytest.mark.parametrize("branch", ["cond", "both"])
def test_a_head_answers_as_a_pipeline_asks(any_head, backbone, states, branch):
    x_t, cond, y, mask = states
    y = y if branch == "cond" else torch.cat([y, y])
    with asking(any_head, backbone, x_t, cond, IDS, mask, branch) as ask:
        for j, s in enumerate((0.0, 0.5)):
            output = ask(j, y)
            assert output.velocity.shape == y.shape and output.velocity.dtype == y.dtype
            torch.testing.assert_close(output.displacement, y + (1 - s) * output.velocity)
        # It is drawn from where it stands, and has the conditions of its branch.
        assert (ask(1, y + 1).velocity - output.velocity).abs().max() > 1e-3
        if branch == "both":
            assert (output.velocity[:2] - output.velocity[2:])[mask].abs().max() > 1e-4


@pytest.mark.parametrize("branch", ["cond", "both"])
def test_a_padded_batch_of_a_head_is_its_items(any_head, backbone, states, branch):
    x_t, cond, y, mask = states
    with asking(any_head, backbone, x_t, cond, IDS, mask, branch) as ask:
        together = ask(1, y if branch == "cond" else torch.cat([y, y])).velocity
    for i in range(2):
        ids, y_i = IDS[i : i + 1, : int((IDS[i] >= 0).sum())], row(y, i)
        with asking(any_head, backbone, row(x_t, i), row(cond, i), ids, None, branch) as ask:
            alone = ask(1, y_i if branch == "cond" else torch.cat([y_i, y_i])).velocity
        # With both branches the null rows are behind the conditional ones.
        expected = together[i::2, : LENGTHS[i]]
        torch.testing.assert_close(alone, expected, atol=2e-4, rtol=1e-4)


# Vocoders


@pytest.fixture(params=["griffin_lim", "griffin_lim from zero phase", "vocos", "hifigan", "port"])
def any_vocoder(request):
    if request.param == "port":
        return PortedVocoder.from_pretrained(request.getfixturevalue("port"), subfolder="vocoder")
    if request.param == "hifigan":
        return HifiGan(tiny_hifigan(model_in_dim=100, sampling_rate=24000))
    if request.param == "vocos":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return VocosVocoder(dim=32, intermediate_dim=64, num_layers=2).eval()
    phase = "zero" if "zero" in request.param else "source_filter"
    return GriffinLimVocoder(num_iters=2, phase_init=phase)


@torch.no_grad()
def test_a_vocoder_sounds_as_a_pipeline_asks(any_vocoder, mel_batch):
    hop = any_vocoder.hop_length
    assert (any_vocoder.sampling_rate, hop) == (24000, 256)
    lengths = mel_batch.attention_mask.sum(dim=1)
    waves = any_vocoder(mel_batch.mel, lengths=lengths)
    assert waves.dtype == torch.float32 and waves.shape[0] == 2
    assert waves.shape[1] >= (int(lengths.max()) - 1) * hop
    for i, length in enumerate(lengths.tolist()):
        alone = any_vocoder(mel_batch.mel[i : i + 1, :length])[0]
        torch.testing.assert_close(waves[i, : len(alone)], alone, atol=1e-5, rtol=1e-4)
        assert alone.abs().max() > 1e-4 and waves[i, len(alone) :].abs().sum() == 0
    shorter = int(lengths.argmin())
    noisy = mel_batch.mel.clone()
    noisy[shorter, int(lengths[shorter]) :] = 3.0
    assert torch.equal(any_vocoder(noisy, lengths=lengths)[shorter], waves[shorter])
