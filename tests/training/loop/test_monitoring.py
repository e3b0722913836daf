"""The loss by time: rows that recombine to the loss, bins, processes, and no copy to the host between log lines."""

import json

import pytest
import torch

from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.loop.monitoring import LossWindow
from dtm_hf.training.objectives.arguments import ConditioningArguments, DTMArguments
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective
from dtm_hf.training.objectives.losses import LossOutput


def output(row_losses, row_frames, t, s=None, **figures):
    tensors = [torch.tensor(values) for values in (row_losses, row_frames, t)]
    s = None if s is None else torch.tensor(s)
    return LossOutput(torch.zeros(()), {n: torch.tensor(v) for n, v in figures.items()}, *tensors, s)


def losses_of(objective_name, make_backbone, make_head, mel_batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if objective_name == "flow_matching":
        backbone = make_backbone(dropout=0.0).unfreeze()
        return FlowMatchingObjective(ConditioningArguments(t_sampling="uniform")).loss(backbone, mel_batch, generator)
    objective = DTMObjective(DTMArguments(), make_backbone(), time_grid("sway", 4)[:-1])
    return objective.loss(make_head(), mel_batch, generator)


@pytest.mark.parametrize(("objective_name", "draws"), [("dtm", 4), ("flow_matching", 1)])
def test_rows_recombine_to_the_loss_and_keep_no_graph(make_backbone, make_head, mel_batch, objective_name, draws):
    result = losses_of(objective_name, make_backbone, make_head, mel_batch)
    loss, figures = result
    assert loss is result.loss and loss.requires_grad and figures is result.figures
    rows = draws * len(mel_batch.mel)
    assert result.row_losses.shape == result.row_frames.shape == result.t.shape == (rows,)
    assert not result.row_losses.requires_grad and result.row_losses.std() > 0
    weighted = (result.row_losses * result.row_frames).sum() / result.row_frames.sum()
    torch.testing.assert_close(weighted, loss.detach())
    if objective_name == "dtm":
        # One t an utterance, one s a draw.
        assert torch.equal(result.t, result.t[:2].repeat(4)) and len(result.s.unique()) == rows
        assert set(figures) == {"mean_displacement_error"}
    else:
        assert result.s is None and figures == {}


def test_a_window_is_the_mean_over_frames_in_each_bin():
    window = LossWindow(num_bins=4)
    window.add(output([1.0, 4.0, 9.0], [10, 30, 7], [0.0, 0.24, 0.25], [0.5, 0.5, 0.99], extra=2.0))
    window.add(output([3.0, 5.0, 2.0], [60, 50, 0], [0.1, 1.0, 0.6], [0.5, 0.0, 0.2], extra=4.0))
    assert window.figures() == pytest.approx(
        {
            "loss_t_0.00_0.25": (1 * 10 + 4 * 30 + 3 * 60) / 100,
            "loss_t_0.25_0.50": 9.0,
            # 1.0 belongs to the last bin; the row without a frame to none.
            "loss_t_0.75_1.00": 5.0,
            "loss_s_0.00_0.25": 5.0,
            "loss_s_0.50_0.75": (1 * 10 + 4 * 30 + 3 * 60) / 100,
            "loss_s_0.75_1.00": 9.0,
            "extra": 3.0,
        }
    )
    assert window.figures() == {}


def test_two_processes_report_what_one_would():
    batches = [output([1.0, 4.0], [10, 30], [0.1, 0.7], extra=2.0), output([3.0], [60], [0.2], extra=5.0)]
    together, parts = LossWindow(), [LossWindow(), LossWindow()]
    for batch, part in zip(batches, parts, strict=True):
        together.add(batch)
        part.add(batch)
    sent = []
    parts[1].figures(lambda totals: sent.append(totals) or totals)
    figures = parts[0].figures(lambda totals: totals + sent[0])
    assert figures == together.figures()
    assert figures["extra"] == 3.5 and figures["loss_t_0.00_0.12"] == 1.0


def test_a_window_goes_on_after_a_resume():
    first, straight = LossWindow(), LossWindow()
    batches = [output([0.1, 0.7], [13, 29], [0.1, 0.9], extra=0.3), output([0.9, 0.2], [7, 3], [0.2, 0.8], extra=0.1)]
    for batch in batches:
        straight.add(batch)
    first.add(batches[0])
    second = LossWindow()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.add(batches[1])
    assert second.figures() == straight.figures()


def test_adding_copies_nothing_to_the_host(make_backbone, make_head, mel_batch):
    """On the meta device there is nothing to copy: reading a value there raises."""
    result = losses_of("dtm", make_backbone, make_head, mel_batch)
    meta = LossOutput(
        result.loss,
        {name: value.to("meta") for name, value in result.figures.items()},
        *(getattr(result, name).to("meta") for name in ("row_losses", "row_frames", "t", "s")),
    )
    window = LossWindow()
    window.add(meta)
    window.add(meta)
    with pytest.raises((RuntimeError, NotImplementedError)):
        window.figures()
