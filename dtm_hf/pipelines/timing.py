"""How long a text is to last beside a recording, token by token; and which timing a pipeline has."""

import torch

from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.token_durations import TokenDurations, whole_frames
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.pipelines.chunking import num_bytes
from dtm_hf.pipelines.proportional_timing import ProportionalTiming, Timing


class TokenTiming:
    """
    Each token has a length of its own, drawn in the pace of the recording, which is aligned with its text.

    Args:
        tokenizer ([`F5Tokenizer`]): text to tokens.
        aligner ([`TextAligner`]): for recordings.
        durations ([`TokenDurations`]): for what is to be said.
    """

    def __init__(self, tokenizer: F5Tokenizer, aligner: TextAligner, durations: TokenDurations):
        self.tokenizer, self.aligner, self.durations = tokenizer, aligner, durations

    def measure(self, text: str) -> float:
        return float(self.durations.mean(self.tokenizer(text).to(self.durations.device)).sum())

    def align(self, mel: torch.Tensor, text: str) -> torch.Tensor:
        mask = torch.ones(1, len(mel), dtype=torch.bool, device=mel.device)
        return self.aligner.align(mel[None], mask, self.tokenizer(text).to(mel.device))[0]

    def last(self, text, reference_text, reference_frames, reference_durations, frames, least, speed, generator):
        text_ids = self.tokenizer(reference_text + text).to(self.durations.device)
        first = len(reference_durations)
        known = torch.zeros_like(text_ids)
        known[0, :first] = reference_durations.to(known.device)
        drawn = self.durations.sample(text_ids, known, generator=generator)[0, first:].cpu()
        said = whole_frames(drawn / speed, frames)
        if said.sum() < least:
            said = whole_frames(drawn, least)
        return int(said.sum()), torch.cat([reference_durations.cpu(), said])


def choose_timing(
    tokenizer: F5Tokenizer,
    text_alignment: str,
    duration_predictor: DurationPredictor | TokenDurations | None,
    text_aligner: TextAligner | None,
) -> Timing:
    """
    The timing that a backbone of this `text_alignment` needs.

    Raises:
        ValueError: if the components are not those, or do not know the tokenizer's vocabulary.
    """
    # A port of one is of another class.
    by_tokens = hasattr(duration_predictor, "sample")
    if text_alignment == "uniform":
        if by_tokens or text_aligner is not None:
            raise ValueError(
                "`text_aligner` and a `duration_predictor` of tokens are for a backbone whose `text_alignment` is "
                '"durations", but this one\'s is "uniform".'
            )
        return ProportionalTiming(duration_predictor or num_bytes)
    if not by_tokens or text_aligner is None:
        raise ValueError(
            "`text_aligner` and a `duration_predictor` of tokens (`TokenDurations`) are needed, for `backbone` is "
            f"told how long each token lasts, but got {type(text_aligner).__name__} and "
            f"{type(duration_predictor).__name__}."
        )
    for name, network in (("text_aligner", text_aligner), ("duration_predictor", duration_predictor)):
        if network.config.num_tokens != tokenizer.vocab_size:
            raise ValueError(
                f"`{name}` must know the {tokenizer.vocab_size} tokens of `tokenizer`, but knows "
                f"{network.config.num_tokens}."
            )
    return TokenTiming(tokenizer, text_aligner, duration_predictor)
