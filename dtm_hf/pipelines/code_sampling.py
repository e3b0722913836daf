"""What a call of TRM is sampled with, refused by name before anything is read, and the rows of a batch by it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.generation.logits_process import LogitsProcessorList

from dtm_hf.codec.mimi import latents_of_codes
from dtm_hf.pipelines.arguments import check_number
from dtm_hf.pipelines.code_batches import collate_rows, draw_random, known_codes
from dtm_hf.pipelines.code_rows import CodeRow
from dtm_hf.pipelines.guidance import Guidance, choose_guidance
from dtm_hf.pipelines.latent_sampler import generate_latents
from dtm_hf.pipelines.masked_sampler import generate_codes
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.trm.decoding import logits_warpers

DECODINGS = ("masked", "independent")


@dataclass(frozen=True)
class CodeSampling:
    """
    Args:
        guidance ([`Guidance`]): of the call.
        scheduler ([`MaskingScheduler`]): with its timesteps set: H cycles.
        warpers (`LogitsProcessorList`): how codes are drawn.
        temperature (`float`): 0 draws nothing.
        independent (`bool`): whether all codes are drawn after the last cycle.
        halt_threshold (`float`, *optional*): from which probability on a row halts.
        flow ([`DTMScheduler`], *optional*): inner flow of a network that speaks in latents.
    """

    guidance: Guidance
    scheduler: MaskingScheduler
    warpers: LogitsProcessorList
    temperature: float
    independent: bool
    halt_threshold: float | None
    flow: DTMScheduler | None


def choose_sampling(
    pipeline: Any,
    num_inference_steps: int | None,
    guidance_scale: float,
    guidance_end: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    decoding: str | None,
    halt_threshold: float | None,
    num_head_steps: int | None,
) -> CodeSampling:
    """
    Arguments as of a call of [`TRMPipeline`], which `pipeline` is.

    Raises:
        TypeError, ValueError: for what its model cannot be sampled with.
    """
    if decoding not in (None, *DECODINGS):
        raise ValueError(f"`decoding` must be one of {DECODINGS}, but got {decoding!r}.")
    if halt_threshold is not None:
        check_number("halt_threshold", halt_threshold, (0.0, 1.0))
    config, flow = pipeline.model.config, None
    if config.latent_dim is None:
        if num_head_steps is not None:
            raise ValueError(f"`num_head_steps` must be left out for a model of codes, but got {num_head_steps!r}.")
    else:
        for name, value in (("decoding", decoding), ("halt_threshold", halt_threshold)):
            if value is not None:
                raise ValueError(f"`{name}` must be left out for a model of latents, but got {value!r}.")
        flow = DTMScheduler(**(pipeline.head.config.sampler or {"num_inference_steps": 1}))
        flow.set_timesteps(1, num_head_steps)
    guidance = choose_guidance(guidance_scale, guidance_end)
    # Timesteps belong to the call.
    scheduler = copy.copy(pipeline.scheduler)
    scheduler.set_timesteps(num_inference_steps)
    independent = not config.feedback if decoding is None else decoding == "independent"
    warpers = logits_warpers(temperature, top_k, top_p)
    return CodeSampling(guidance, scheduler, warpers, temperature, independent, halt_threshold, flow)


def sample_rows(
    pipeline: Any,
    sampling: CodeSampling,
    rows: Sequence[CodeRow],
    sources: Sequence[torch.Generator | None],
    device: torch.device,
    state: SamplingState,
    on_cycle_end: Callable[[int, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """
    A batch of rows, each with the generator that it draws from: codes `(K, F_i)`, or latents `(M, F_i)`, with those of
    the recordings before them.
    """
    model, given = pipeline.model, collate_rows(rows, device)
    prompt, draws = known_codes(rows, model.config, device), sampling.temperature > 0
    if sampling.flow is None:
        decided = generate_codes(
            model,
            copy.copy(sampling.scheduler),
            *given,
            warpers=sampling.warpers,
            draw=partial(draw_random, rows, sources, device) if draws else None,
            prompt=prompt,
            state=state,
            independent=sampling.independent,
            on_cycle_end=on_cycle_end,
            halt_threshold=sampling.halt_threshold,
        )
        return [item[:, : row.num_frames] for row, item in zip(rows, decided, strict=True)]
    shape = (len(rows), model.config.latent_dim, given[2].shape[1])
    noise = draw_random(rows, sources, device, shape, torch.randn) if draws else torch.zeros(shape, device=device)
    flow, cycles = copy.copy(sampling.flow), len(sampling.scheduler)
    noise = sampling.temperature * noise
    latents = generate_latents(
        model, pipeline.head, flow, cycles, *given, noise, prompt=prompt, state=state, on_cycle_end=on_cycle_end
    )
    found = []
    for row, item in zip(rows, latents, strict=True):
        if row.prompt is not None:
            item[:, : row.known_frames] = latents_of_codes(pipeline.codec, row.prompt.codes[None])[0]
        found.append(item[:, : row.num_frames])
    return found
