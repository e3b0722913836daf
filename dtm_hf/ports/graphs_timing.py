"""The graphs of the networks that time text: [`TextAligner`] and [`TokenDurations`]."""

import torch
from torch import nn

from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.ports.graph import FRAMES, ROWS, TOKENS, Graph, example_mask


class AlignerGraph(nn.Module):
    """[`TextAligner.log_weights`]: the prior, which depends on the lengths alone, stays outside."""

    def __init__(self, aligner: TextAligner):
        super().__init__()
        self.aligner = aligner

    def forward(self, mel: torch.Tensor, mel_mask: torch.Tensor, text_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shapes as of [`TextAligner.forward`]."""
        return {"log_weights": self.aligner.log_weights(mel, mel_mask, text_ids)}


class DurationsGraph(nn.Module):
    """[`TokenDurations.forward`], one step of its walk."""

    def __init__(self, durations: TokenDurations):
        super().__init__()
        self.durations = durations

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        text_ids: torch.Tensor,
        known: torch.Tensor,
        known_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Shapes as of [`TokenDurations.forward`]."""
        return {"velocity": self.durations(sample, timestep, text_ids, known, known_mask)}


def _text_ids(num_tokens: int) -> torch.Tensor:
    return torch.randint(0, num_tokens, (ROWS, TOKENS)).masked_fill(~example_mask(TOKENS), -1)


def aligner_graphs(aligner: TextAligner) -> list[Graph]:
    """The graph of an aligner."""
    inputs = {
        "mel": torch.randn(ROWS, FRAMES, aligner.config.mel_dim),
        "mel_mask": example_mask(FRAMES),
        "text_ids": _text_ids(aligner.config.num_tokens),
    }
    return [Graph("aligner", AlignerGraph(aligner), inputs, dict.fromkeys(inputs, (0, 1)))]


def durations_graphs(durations: TokenDurations) -> list[Graph]:
    """The graph of a duration network."""
    known_mask = torch.arange(TOKENS)[None] < torch.tensor([[4], [2]])
    inputs = {
        "sample": torch.randn(ROWS, TOKENS),
        "timestep": torch.rand(ROWS),
        "text_ids": _text_ids(durations.config.num_tokens),
        "known": torch.randn(ROWS, TOKENS) * known_mask,
        "known_mask": known_mask,
    }
    axes = dict.fromkeys(inputs, (0, 1)) | {"timestep": (0,)}
    return [Graph("durations", DurationsGraph(durations), inputs, axes)]
