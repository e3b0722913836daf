"""The graphs of a [`DTMHead`]: what it makes of times, of features, and one call."""

import torch
from torch import nn

from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.ports.graph import FRAMES, ROWS, Graph, example_mask


class ModulationGraph(nn.Module):
    """[`DTMHead.prepare_schedule`] for a list of pairs of times."""

    def __init__(self, head: DTMHead):
        super().__init__()
        self.head = head

    def forward(
        self, timestep: torch.Tensor, flow_time: torch.Tensor, guidance_scale: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Times, and the scale of a head that is told one, of shape `(P,)` -> modulations `(P, K)`."""
        return {"modulation": self.head._modulation(timestep, flow_time, guidance_scale)}


class PrepareGraph(nn.Module):
    """[`DTMHead.prepare`]."""

    def __init__(self, head: DTMHead):
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(B, N, D)` -> `(B, N, H)`; what is read and what is kept of it are the head's own."""
        return {"prepared_states": self.head.prepare(features)}


class HeadGraph(nn.Module):
    """[`DTMHead.forward`] at one pair of times."""

    def __init__(self, head: DTMHead):
        super().__init__()
        self.head = head

    def forward(
        self,
        prepared_states: torch.Tensor,
        flow_state: torch.Tensor,
        flow_time: torch.Tensor,
        velocity: torch.Tensor,
        attention_mask: torch.Tensor,
        modulation: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Shapes as of [`DTMHead.forward`]; `flow_time` is `(1,)` and `modulation` `(1, K)`."""
        g, _ = self.head(
            None,
            flow_state,
            flow_time,
            timestep=0.0,
            velocity=velocity,
            attention_mask=attention_mask,
            prepared_states=prepared_states,
            modulation=modulation,
            return_dict=False,
        )
        return {"flow_velocity": g}


def head_graphs(head: DTMHead) -> list[Graph]:
    """Graphs of a head in evaluation mode."""
    config = head.config
    times = {"timestep": torch.rand(3), "flow_time": torch.rand(3)}
    if config.guidance_scale_range is not None:
        times["guidance_scale"] = torch.full((3,), float(config.guidance_scale))
    mel, (prepared, modulation) = (ROWS, FRAMES, config.num_mel_bins), _widths(config)
    call = {
        "prepared_states": torch.randn(ROWS, FRAMES, prepared),
        "flow_state": torch.randn(mel),
        "flow_time": torch.tensor([0.5]),
        "velocity": torch.randn(mel),
        "attention_mask": example_mask(FRAMES),
        "modulation": torch.randn(1, modulation),
    }
    rows = ("prepared_states", "flow_state", "velocity", "attention_mask")
    return [
        Graph("modulation", ModulationGraph(head), times, dict.fromkeys(times, (0,))),
        Graph(
            "prepare",
            PrepareGraph(head),
            {"features": torch.randn(ROWS, FRAMES, config.num_features)},
            {"features": (0, 1)},
        ),
        Graph("head", HeadGraph(head), call, dict.fromkeys(rows, (0, 1))),
    ]


def _widths(config: DTMHeadConfig) -> tuple[int, int]:
    """Of the prepared states, and of a modulation: see [`DTMHead.prepare`] and [`DTMHead.prepare_schedule`]."""
    size = config.hidden_size
    prepared, modulation = size, (3 * config.num_hidden_layers + 2) * size
    if config.architecture == "transformer":
        # X_t goes with what is known beside it, and the blocks make their own of the embedded time.
        prepared, modulation = size + config.num_mel_bins, size
    # The weight of guidance is the last entry.
    return prepared, modulation + (config.prediction == "guidance")
