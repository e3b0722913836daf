"""The loop of cycles in which TRM decides codes. Knows nothing of text, recordings or waveforms."""

from collections.abc import Callable

import torch
from transformers.generation.logits_process import LogitsProcessorList

from dtm_hf.pipelines.guidance import ClassifierFreeGuidance
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.precision import computed_fast
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.trm.decoding import draw_codes
from dtm_hf.trm.modeling_trm import TRMModel

Draw = Callable[[tuple[int, ...]], torch.Tensor]
"""Uniform numbers in [0, 1) of a shape whose first dimension is the batch."""


@torch.no_grad()
@computed_fast
def generate_codes(
    model: TRMModel,
    scheduler: MaskingScheduler,
    text_ids: torch.Tensor,
    speaker_ids: torch.Tensor,
    audio_mask: torch.Tensor,
    warpers: LogitsProcessorList,
    draw: Draw | None = None,
    prompt: torch.Tensor | None = None,
    state: SamplingState | None = None,
    independent: bool = False,
    on_cycle_end: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
    halt_threshold: float | None = None,
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
        state ([`SamplingState`], *optional*): guidance l_c + w (l_c - l_u) on log-probabilities, with an unconditional
            branch whose text is unknown characters alone; none by default. Once it says so, the cycles to come are
            left out, and what is open then becomes what the last one drew.
        independent (`bool`, defaults to `False`): as the document has it: cycles see no codes, and after the last all
            are drawn at once.
        on_cycle_end (`Callable`, *optional*): called as `on_cycle_end(i, codes)`; returns the codes to go on with.
        halt_threshold (`float`, *optional*): probability of the halt head from which on a row is done: what is open in
            it becomes what the cycle drew, and no later one changes it. Cycles end with the last row. `None`: all run.

    Returns:
        `torch.LongTensor` of shape `(B, K, T)`, the mask code at frames that are not valid.
    """
    config, last = model.config, scheduler.num_inference_steps - 1
    state = SamplingState(ClassifierFreeGuidance(1.0), last + 1) if state is None else state
    shape = (len(text_ids), config.num_codebooks, audio_mask.shape[1])
    known = torch.full(shape, config.mask_code, device=text_ids.device) if prompt is None else prompt
    codes, rows = known, shape[0]
    if state.guidance.branch(0.0) == "both":
        # 1 is the character that the vocabulary lacks: training puts it in the place of a dropped text.
        text_ids = torch.cat([text_ids, text_ids.clamp(max=1)])
        speaker_ids, audio_mask = speaker_ids.repeat(2), audio_mask.repeat(2, 1)
    context, text_mask = model.encode_text(text_ids, speaker_ids), text_ids != 0
    answer, latent = model.begin(audio_mask)
    places = (rows, audio_mask.shape[1])
    # Independent codes are drawn once, whichever cycle a row ends with.
    once = _points(config, draw, places) if independent else None
    halted = torch.zeros(rows, dtype=torch.bool, device=text_ids.device)
    for i in range(last + 1):
        guided = len(answer) > rows and state.guidance.branch(i / (last + 1)) == "both"
        if not guided:
            context, text_mask, audio_mask = context[:rows], text_mask[:rows], audio_mask[:rows]
            answer, latent = answer[:rows], latent[:rows]
        seen = known if independent else codes
        seen = seen.repeat(2, 1, 1) if guided else seen
        output = model.cycle(answer, latent, seen, context, text_mask, audio_mask)
        answer, latent = output.answer, output.latent
        if halt_threshold is not None:
            halted = halted | (output.halt_logits[:rows].float().sigmoid() >= halt_threshold)
        ends = i == last or (halt_threshold is not None and bool(halted.any()))
        if not independent or ends:
            points = once if independent else _points(config, draw, places)
            drawn, sureness = _draw_all(model, answer, warpers, points, state if guided else None)
            filled = _fill(codes, drawn, config.mask_code, audio_mask[:rows])
        if not independent:
            noise = None if draw is None else draw(shape)
            decided = scheduler.step(drawn, sureness, i, codes, config.mask_code, audio_mask[:rows], noise).prev_sample
            # A row that halted before has nothing open that could be filled.
            codes = torch.where(halted[:, None, None], filled, decided) if ends else decided
        elif ends:
            codes = filled if i == last else torch.where(halted[:, None, None], filled, codes)
        if on_cycle_end is not None:
            codes = on_cycle_end(i, codes)
        if state.interrupt and i < last:
            if independent:
                drawn, _ = _draw_all(model, answer, warpers, once, state if guided else None)
            return _fill(codes, drawn, config.mask_code, audio_mask[:rows])
        if ends and bool(halted.all()):
            break
    return codes


def _points(config, draw: Draw | None, places: tuple[int, int]) -> list[torch.Tensor | None]:
    """Where in its distribution each code is drawn, `(B, T)` for each book."""
    return [None if draw is None else draw(places) for _ in range(config.num_codebooks)]


def _draw_all(model, answer, warpers, points, state) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of all places and their log-probabilities, `(B, K, T)`; a book at a time, for logits are many."""
    drawn, sureness = [], []
    for k, point in enumerate(points):
        logits = model.logits(answer, k)
        if state is not None:
            logits = state.guidance.combine(logits.float().log_softmax(dim=-1))
        one, sure = draw_codes(logits, warpers, point)
        drawn.append(one)
        sureness.append(sure)
    return torch.stack(drawn, dim=1), torch.stack(sureness, dim=1)


def _fill(codes: torch.Tensor, drawn: torch.Tensor, mask_code: int, audio_mask: torch.Tensor) -> torch.Tensor:
    """What was drawn at the valid places that are open."""
    return torch.where((codes == mask_code) & audio_mask[:, None], drawn, codes)
