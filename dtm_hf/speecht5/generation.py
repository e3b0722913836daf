"""The loop of SpeechT5: frames until the model says that it has said everything."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech

from dtm_hf.precision import computed_fast
from dtm_hf.speecht5.networks import PostNetwork, StepNetwork, TextNetwork, check_text_length

# The cache grows by so many steps at a time: a runtime sees few shapes, and a short text pays for no long one.
_SLOTS = 128

Masks = Callable[[int], torch.Tensor]
"""Masks of the pre-net's dropout `(B, P, U)` at a position, scaled."""


class Steps(Protocol):
    """
    SpeechT5 as the loop drives it; a port is one too.

    Attributes:
        config ([`~transformers.SpeechT5Config`]): of the model.
        device (`torch.device`), dtype (`torch.dtype`): of what goes in and comes out.
    """

    config: SpeechT5Config
    device: torch.device
    dtype: torch.dtype

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of [`TextNetwork`]."""

    def step(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of [`StepNetwork`]."""

    def refine(self, mel: torch.Tensor) -> torch.Tensor:
        """As of [`PostNetwork`], its `refined` alone."""


class EagerSteps:
    """
    [`Steps`] of the model itself.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): in evaluation mode.
        compiled (`bool`, defaults to `False`): run the step through `torch.compile`.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech, compiled: bool = False):
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self._text, self._step, self._post = TextNetwork(model), StepNetwork(model), PostNetwork(model)
        if compiled:
            self._step = torch.compile(self._step)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._text(input_ids, attention_mask)

    def step(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._step(**tensors)

    def refine(self, mel: torch.Tensor) -> torch.Tensor:
        return self._post(mel)["refined"]


def scaled_masks(kept: torch.Tensor, config: SpeechT5Config) -> torch.Tensor:
    """
    What the pre-net multiplies by where it keeps `kept`. As in transformers, a share of
    `speech_decoder_prenet_dropout` is kept, not dropped, and divided by the rest: right at one half.
    """
    return kept / (1 - config.speech_decoder_prenet_dropout)


def drawn_masks(
    generators: Sequence[torch.Generator], config: SpeechT5Config, device: torch.device, dtype: torch.dtype
) -> Masks:
    """
    Masks drawn of a generator a row, so that a row is in a batch what it is alone.

    `generate_speech` draws them anew for all frames so far at each step and uses those of the last; one draw a
    position has the same law.
    """
    shape = (config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
    kept = torch.full(shape, config.speech_decoder_prenet_dropout)

    def draw(position: int) -> torch.Tensor:
        rows = [torch.bernoulli(kept.to(source.device), generator=source).to(device, dtype) for source in generators]
        return scaled_masks(torch.stack(rows), config)

    return draw


@torch.no_grad()
@computed_fast
def generate(
    steps: Steps,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    speaker: torch.Tensor,
    masks: Masks,
    threshold: float = 0.5,
    min_ratio: float = 0.0,
    max_ratio: float = 20.0,
    on_step: Callable[[int], None] | None = None,
    on_end: Callable[[int, bool], None] | None = None,
) -> list[torch.Tensor]:
    """
    Speak rows of tokens. The rule is that of `generate_speech`: a row ends at the step whose R stop probabilities add
    up to `threshold`, with the frames of that step; fed back is the last frame of a step before the post-net, which
    runs once, over all frames of a row. Unlike there, the longest a row may last goes by its own tokens and not by
    those of its longest neighbour, and it ends where the decoder has no more positions.

    Args:
        steps ([`Steps`]): the networks.
        input_ids (`torch.LongTensor` of shape `(B, L)`), attention_mask (`torch.LongTensor` of shape `(B, L)`): text.
        speaker (`torch.Tensor` of shape `(B, E)`): embeddings of speakers.
        masks (`Callable`): of the dropout, by position.
        threshold (`float`): of the stop probabilities.
        min_ratio (`float`), max_ratio (`float`): frames a token, at least and at most.
        on_step (`Callable`, *optional*): called with the number of steps so far.
        on_end (`Callable`, *optional*): called with each row that ends, and whether it said so itself.

    Returns:
        `list` of `torch.Tensor` of shape `(N_i, M)`: log-mels.

    Raises:
        ValueError: for more tokens than the model has positions, before it runs.
    """
    check_text_length(input_ids, steps.config)
    config, rows = steps.config, len(input_ids)
    text = steps.encode(input_ids, attention_mask)
    cross_cache, speaker = text["cross_cache"], speaker.to(steps.device, steps.dtype)
    num_layers, _, _, num_heads, _, head_dim = cross_cache.shape
    tokens = attention_mask.sum(dim=1).tolist()
    least, most = (
        [min(int(count * ratio / config.reduction_factor), config.max_speech_positions) for count in tokens]
        for ratio in (min_ratio, max_ratio)
    )
    cache = cross_cache.new_zeros(num_layers, 2, rows, num_heads, 0, head_dim)
    frame = cross_cache.new_zeros(rows, config.num_mel_bins)
    frames: list[torch.Tensor] = []
    mels: list[torch.Tensor | None] = [None] * rows
    while any(mel is None for mel in mels):
        position = len(frames)
        if position == cache.shape[4]:
            cache = torch.cat([cache, cache.new_zeros(*cache.shape[:4], _SLOTS, head_dim)], dim=4)
        output = steps.step(
            frame=frame,
            position=torch.tensor([position], device=steps.device),
            masks=masks(position),
            speaker=speaker,
            cache=cache,
            cross_cache=cross_cache,
            attention_mask=attention_mask,
        )
        cache[:, :, :, :, position] = output["states"][:, :, :, :, 0]
        frames.append(output["frames"])
        frame = output["frames"][:, -1]
        done = position + 1
        said = (output["stop_logits"].sigmoid().sum(dim=-1) >= threshold).tolist()
        for row in range(rows):
            if mels[row] is None and done >= least[row] and (said[row] or done >= most[row]):
                mels[row] = torch.cat([step[row] for step in frames])
                if on_end is not None:
                    on_end(row, said[row])
        if on_step is not None:
            on_step(done)
    return [steps.refine(mel[None])[0] for mel in mels]
