"""A vocoder learns to say recordings again, by its losses alone and in the trainer."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import SAMPLING_RATE, voice
from training_runs import LOOP, QUIET, log, write_corpus

from dtm_hf import DTMPipeline, VocosVocoder
from dtm_hf.training.systems import build_task, parse_config
from dtm_hf.training.trainer import Trainer
from dtm_hf.training.vocoder.discriminators import Discriminators
from dtm_hf.training.vocoder.objective import VocoderObjective
from dtm_hf.training.vocoder.rows import ClipBatch, draw_segments

TINY = "--vocoder_dim 16 --vocoder_intermediate_dim 32 --vocoder_num_layers 1 --segment_frames 16".split()
TINY += "--discriminator_windows 128 --discriminator_channels 2".split()


@pytest.fixture(autouse=True)
def fixed_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def wave():
    """Two segments of one clip, `(2, 4096)`."""
    return torch.from_numpy(voice(0.6)[:8192]).view(2, 4096)


def arguments(corpus, output_dir, *more):
    # Discriminators on samples have 8 M parameters each.
    (corpus / "config.yaml").write_text("vocoder: {discriminator_periods: []}")
    data = ["--dataset", str(corpus), *LOOP, *QUIET, "--output_dir", str(output_dir)]
    return ["--config", str(corpus / "config.yaml"), "--objective", "vocoder", *data, *TINY, *more]


def gradients(module):
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_spectral_losses_bring_it_near_a_recording(wave):
    vocoder = VocosVocoder(dim=48, intermediate_dim=96, num_layers=2)
    objective = VocoderObjective(vocoder)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=3e-3, betas=(0.8, 0.9))
    before = objective.distances(wave)
    for _ in range(40):
        loss, figures = objective.generator_loss(wave)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = objective.distances(wave)
    assert before.keys() == {"mel", "mel_256", "mel_512", "mel_1024", "mel_2048"}
    assert all(after[name] < 0.5 * before[name] for name in before)
    assert float(figures["mel"]) == pytest.approx(float(after["mel"]), rel=0.2)


def test_discriminators_join_and_each_loss_trains_its_own(wave):
    vocoder, discriminators = VocosVocoder(dim=16, intermediate_dim=16, num_layers=1), Discriminators([7], [128], 2)
    objective = VocoderObjective(vocoder, discriminators)
    # One context around all, which remembers weights that it has rounded: without a gradient if the first who asked
    # had none.
    with torch.autocast("cpu", torch.bfloat16):
        objective.discriminator_loss(wave).loss.backward()
        assert not gradients(vocoder) and len(gradients(discriminators)) == len(list(discriminators.parameters()))
        discriminators.zero_grad()
        loss, figures = objective.generator_loss(wave, adversarial=True)
        loss.backward()
    assert not gradients(discriminators) and all(bool(grad.any()) for grad in gradients(vocoder))
    assert len(gradients(vocoder)) == len(list(vocoder.parameters()))
    assert all(parameter.requires_grad for parameter in discriminators.parameters())
    assert loss.dtype == torch.float32
    total = 45.0 * figures["mel"] + figures["deceiving"] + figures["matching"]
    torch.testing.assert_close(loss.detach(), total)
    # Spectra do not feel autocast, in which log-mels would have steps of some percent.
    alone = VocoderObjective(vocoder, stft_weight=0.0)
    assert float(alone.generator_loss(wave).figures["mel"]) == pytest.approx(float(figures["mel"]), rel=0.01)


def test_what_a_discriminator_learns_is_what_the_vocoder_is_told(wave):
    vocoder, discriminators = VocosVocoder(dim=16, intermediate_dim=16, num_layers=1), Discriminators([], [128], 4)
    objective = VocoderObjective(vocoder, discriminators)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=3e-3)
    first = objective.generator_loss(wave, adversarial=True).figures["deceiving"]
    losses = []
    for _ in range(15):
        losses.append(objective.discriminator_loss(wave).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert objective.generator_loss(wave, adversarial=True).figures["deceiving"] > 1.2 * first


def test_noise_is_added_to_mels_in_training_alone(wave):
    vocoder = VocosVocoder(dim=16, intermediate_dim=16, num_layers=1)
    noisy, clean = VocoderObjective(vocoder, mel_noise=1.0), VocoderObjective(vocoder)
    draws = [noisy.vocode(wave, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    vocoder.eval()
    assert torch.equal(noisy.vocode(wave), clean.vocode(wave))


def test_segments_lie_inside_their_clips():
    lengths = torch.tensor([100, 40, 7])
    waveforms = torch.arange(100.0).expand(3, -1) * (torch.arange(100) < lengths[:, None]) + 1000 * (
        torch.arange(100) >= lengths[:, None]
    )
    batch = ClipBatch(waveforms, lengths)
    drawn = torch.stack([draw_segments(batch, 7, torch.Generator().manual_seed(seed)) for seed in range(200)])
    assert (drawn < 1000).all() and bool((drawn.diff(dim=-1) == 1).all())
    starts = drawn[..., 0]
    assert (starts[:, 2] == 0).all() and set(starts[:, 1].int().tolist()) == set(range(34))
    assert torch.equal(drawn[3], draw_segments(batch, 7, torch.Generator().manual_seed(3)))


def test_it_trains_through_both_phases_resumes_to_the_bit_and_speaks(tmp_path, tiny_pipeline, reference_audio):
    corpus = write_corpus(tmp_path / "corpus")
    # It is stopped when the discriminators have joined.
    run = ("--adversarial_start", "2", "--lr_scheduler", "constant_with_warmup", "--save_interval", "9")
    Trainer(parse_config(arguments(corpus, tmp_path / "straight", "--max_steps", "4", *run))).train()
    for steps in ("3", "4"):
        Trainer(parse_config(arguments(corpus, tmp_path / "stopped", "--max_steps", steps, *run))).train()
    file = "diffusion_pytorch_model.safetensors"
    straight, stopped = (load_file(tmp_path / name / file) for name in ("straight", "stopped"))
    assert straight.keys() == stopped.keys() and all(torch.equal(straight[n], stopped[n]) for n in straight)
    for name in ("loss", "mel", "discriminator_loss", "hours"):
        assert log(tmp_path / "straight", name) == log(tmp_path / "stopped", name), name
    assert list(log(tmp_path / "straight", "discriminator_loss")) == [3, 4]
    assert list(log(tmp_path / "straight", "stft")) == [1, 2]
    made = VocosVocoder.from_pretrained(tmp_path / "straight")
    assert made.config.training_data.startswith("corpus; 4 steps") and made.config.license == "mit"
    components = tiny_pipeline.components | {"vocoder": made.eval()}
    audio = DTMPipeline(**components)("hello", str(reference_audio), "hi there", generator=torch.Generator()).audios[0]
    assert len(audio) > 0.1 * SAMPLING_RATE and np.isfinite(audio).all()
    # A run goes on from its weights.
    on = parse_config(arguments(corpus, tmp_path / "on", "--init_from", str(tmp_path / "straight")))
    assert torch.equal(build_task(on).vocoder.head.out.bias, made.head.out.bias)


def test_what_cannot_be_is_refused(tmp_path, wave):
    corpus = write_corpus(tmp_path / "corpus")
    VocosVocoder(dim=8, intermediate_dim=8, num_layers=1, padding="same").save_pretrained(tmp_path / "same")
    for more, message in (
        (("--segment_frames", "300"), "`frames_per_batch` must hold `segment_frames`, 300, but got 200"),
        (("--pair_probability", "0.5"), "`pair_probability` must be 0 for vocoder, but got 0.5"),
        (("--discriminator_windows", "16384"), r"`discriminator_windows` must lie in \[64, 8190\], but got 16384"),
        (("--torch_compile", "true"), "`torch_compile` must be off for vocoder"),
        (("--init_from", str(tmp_path / "same")), "`init_from` must be a vocoder with the padding 'center'"),
    ):
        with pytest.raises(ValueError, match=message):
            build_task(parse_config(arguments(corpus, tmp_path / "run", *more)))
    objective = VocoderObjective(VocosVocoder(dim=8, intermediate_dim=8, num_layers=1))
    for wrong in (wave[:, :4000], wave[:, :1024], wave[0]):
        with pytest.raises(ValueError, match=r"`wave` must have shape \(B, T\), T a multiple of 256 above 1024"):
            objective.generator_loss(wrong)
