"""The loop of cycles in which TRM decides codes. Knows nothing of text, recordings or waveforms."""

from collections.abc import Callable

import torch
from transformers.generation.logits_process import LogitsProcessorList

from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.trm.decoding import draw_codes
from dtm_hf.trm.modeling_trm import TRMModel

Draw = Callable[[tuple[int, ...]], torch.Tensor]
"""Uniform numbers in [0, 1) of a shape whose first dimension is the batch."""


@torch.no_grad()
def generate_codes(
    model: TRMModel,
    scheduler: MaskingScheduler,
    text_ids: torch.Tensor,
    speaker_ids: torch.Tensor,
    audio_mask: torch.Tensor,
    warpers: LogitsProcessorList,
    draw: Draw | None = None,
    prompt: torch.Tensor | None = None,
    guidance_scale: float = 1.0,
    independent: bool = False,
    on_cycle_end: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """
    Codes of whole utterances, one cycle a step of the scheduler.

    Args:
        model ([`TRMModel`]): the network.
        scheduler ([`MaskingScheduler`]): with its timesteps set: H cycles.
        text_ids (`torch.LongTensor` of shape `(B, L)`), speaker_ids (`torch.LongTensor` of shape `(B,)`): what to say.
        audio_mask (`torch.BoolTensor` of shape `(B, T)`): frames to say it in, prompts included.
        warpers (`LogitsProcessorList`): of [`logits_warpers`].
        draw (`Callable`, *optional*): source of the draws; `None` takes the likeliest codes.
        prompt (`torch.LongTensor` of shape `(B, K, T)`, *optional*): codes that are known, `mask_code` elsewhere.
        guidance_scale (`float`, defaults to 1.0): w + 1 of l_c + w (l_c - l_u) on log-probabilities, with an
            unconditional branch whose text is one padding character of the vocabulary; 1 runs none.
        independent (`bool`, defaults to `False`): as the document has it: cycles see no codes, and after the last all
            are drawn at once.
        on_cycle_end (`Callable`, *optional*): called as `on_cycle_end(i, codes)`; returns the codes to go on with.

    Returns:
        `torch.LongTensor` of shape `(B, K, T)`, the mask code at frames that are not valid.
    """
    config = model.config
    shape = (len(text_ids), config.num_codebooks, audio_mask.shape[1])
    known = torch.full(shape, config.mask_code, device=text_ids.device) if prompt is None else prompt
    codes, guided = known, guidance_scale > 1
    if guided:
        # 1 is the character that the vocabulary lacks: training puts it in the place of a dropped text.
        dropped = torch.ones_like(text_ids).masked_fill(text_ids == 0, 0)
        text_ids, speaker_ids = torch.cat([text_ids, dropped]), speaker_ids.repeat(2)
        audio_mask_all = audio_mask.repeat(2, 1)
    else:
        audio_mask_all = audio_mask
    context, text_mask = model.encode_text(text_ids, speaker_ids), text_ids != 0
    answer, latent = model.begin(audio_mask_all)
    last = scheduler.num_inference_steps - 1
    for i in range(last + 1):
        seen = known if independent else codes
        seen = seen.repeat(2, 1, 1) if guided else seen
        output = model.cycle(answer, latent, seen, context, text_mask, audio_mask_all)
        answer, latent = output.answer, output.latent
        if independent and i < last:
            continue
        drawn, sureness = [], []
        for k in range(config.num_codebooks):
            logits = model.logits(answer, k)
            if guided:
                conditional, null = logits.float().log_softmax(dim=-1).chunk(2)
                logits = conditional + (guidance_scale - 1) * (conditional - null)
            uniform = None if draw is None else draw((shape[0], shape[2]))
            one, sure = draw_codes(logits, warpers, uniform)
            drawn.append(one)
            sureness.append(sure)
        drawn = torch.stack(drawn, dim=1)
        if independent:
            codes = torch.where((known == config.mask_code) & audio_mask[:, None], drawn, known)
        else:
            noise = None if draw is None else draw(shape)
            codes = scheduler.step(
                drawn, torch.stack(sureness, dim=1), i, codes, config.mask_code, audio_mask, noise
            ).prev_sample
        if on_cycle_end is not None:
            codes = on_cycle_end(i, codes)
    return codes
