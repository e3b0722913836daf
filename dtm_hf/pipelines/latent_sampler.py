"""Cycles of TRM and the inner flow of a head behind them: a codec's latents. Knows nothing of text or waveforms."""

from collections.abc import Callable

import torch

from dtm_hf.head.contract import Head
from dtm_hf.pipelines.guidance import ClassifierFreeGuidance
from dtm_hf.pipelines.sampler import SamplingState, sample_displacement
from dtm_hf.precision import computed_fast
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.trm.modeling_trm import TRMModel


@torch.no_grad()
@computed_fast
def generate_latents(
    model: TRMModel,
    head: Head,
    scheduler: DTMScheduler,
    num_cycles: int,
    text_ids: torch.Tensor,
    speaker_ids: torch.Tensor,
    audio_mask: torch.Tensor,
    noise: torch.Tensor,
    prompt: torch.Tensor | None = None,
    state: SamplingState | None = None,
    on_cycle_end: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """
    Latents of whole utterances: H cycles of the network, then one inner flow as in a step of [`DTMPipeline`], with the
    answer as features and the network's mean as velocity. All frames are drawn together.

    Args:
        model ([`TRMModel`]): the network, with a `latent_dim` M.
        head ([`~dtm_hf.head.contract.Head`]): draws latents from the answer.
        scheduler ([`DTMScheduler`]): of the inner flow, with its timesteps set; without head steps the mean is taken.
        num_cycles (`int`): H.
        text_ids (`torch.LongTensor` of shape `(B, L)`), speaker_ids (`torch.LongTensor` of shape `(B,)`): what to say.
        audio_mask (`torch.BoolTensor` of shape `(B, T)`): frames to say it in, prompts included.
        noise (`torch.Tensor` of shape `(B, M, T)`): Y_0.
        prompt (`torch.LongTensor` of shape `(B, K, T)`, *optional*): codes that are known, `mask_code` elsewhere.
        state ([`SamplingState`], *optional*): guidance, of the head's velocity; once it says so, cycles are left out.
        on_cycle_end (`Callable`, *optional*): called as `on_cycle_end(i, codes)` with those that are known; returns
            the codes that the next cycle sees.

    Returns:
        `torch.Tensor` of shape `(B, M, T)`: of the codec's own mean and spread; any at frames that are not valid.
    """
    rows = len(text_ids)
    state = SamplingState(ClassifierFreeGuidance(1.0), num_cycles) if state is None else state
    guided = state.guidance.branch(0.0) == "both"
    if guided:
        # 1 is the character that the vocabulary lacks: training puts it in the place of a dropped text.
        text_ids = torch.cat([text_ids, text_ids.clamp(max=1)])
        speaker_ids, audio_mask = speaker_ids.repeat(2), audio_mask.repeat(2, 1)
    shape = (rows, model.config.num_codebooks, audio_mask.shape[1])
    codes = torch.full(shape, model.config.mask_code, device=text_ids.device) if prompt is None else prompt
    context, text_mask = model.encode_text(text_ids, speaker_ids), text_ids != 0
    answer, latent = model.begin(audio_mask)
    for i in range(num_cycles):
        seen = codes.repeat(2, 1, 1) if guided else codes
        output = model.cycle(answer, latent, seen, context, text_mask, audio_mask)
        answer, latent = output.answer, output.latent
        if on_cycle_end is not None:
            codes = on_cycle_end(i, codes)
        if state.interrupt:
            break
    mean = model.mean_latents(answer).float()
    if scheduler.num_head_steps == 0:
        drawn = state.guidance.combine(mean) if guided else mean
    else:
        # In training, too, t is the share of the cycles before the last.
        timestep = torch.tensor([i / num_cycles], device=mean.device)
        modulations = head.prepare_schedule(timestep, scheduler.head_timesteps)
        guidance = state.guidance if guided else None
        flow = (timestep[0], modulations[0], guidance, audio_mask[:rows], noise.transpose(1, 2))
        drawn = sample_displacement(head, scheduler, answer, mean, *flow)
    return (drawn * model.latent_std + model.latent_mean).transpose(1, 2)
