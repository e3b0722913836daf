"""The networks that time text on their graphs, run by torch, against the components."""

import numpy as np
import torch
from tiny import VOCABULARY, randomise

from dtm_hf import TextAligner, TokenDurations
from dtm_hf.frontend.token_durations import whole_frames
from dtm_hf.ports.graphs_timing import aligner_graphs, durations_graphs
from dtm_hf.runtime import NoiseGenerator, timing

IDS = torch.tensor([3, 8, 1, 20, 5, 9, 9, 2, 30, 11, 4, 7, 12, 0, 6, 1, 2])


def by_name(graphs):
    return {graph.name: graph for graph in graphs}


def test_a_recording_is_aligned_alike():
    torch.manual_seed(0)
    aligner = TextAligner(len(VOCABULARY), hidden_size=16, embedding_size=8)
    mel = torch.randn(1, 60, 100)
    expected = aligner.align(mel, torch.ones(1, 60, dtype=torch.bool), IDS[None])[0]
    found = timing.Aligner(aligner.config, by_name(aligner_graphs(aligner))).align(mel[0].numpy(), IDS.numpy())
    np.testing.assert_array_equal(found, expected)
    assert len(set(found.tolist())) > 1


def test_durations_are_drawn_alike():
    torch.manual_seed(0)
    durations = TokenDurations(len(VOCABULARY), hidden_size=16, num_layers=2, noise_scale=0.8)
    randomise(durations, 1)
    ported = timing.Durations(durations.config, by_name(durations_graphs(durations)))
    known = torch.zeros_like(IDS)
    known[:5] = torch.tensor([4, 2, 7, 1, 3])
    expected = durations.sample(IDS[None], known[None], generator=torch.Generator().manual_seed(2))[0]
    found = ported.sample(IDS.numpy(), known.numpy(), NoiseGenerator(2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(ported.mean(IDS.numpy()), durations.mean(IDS[None])[0], rtol=1e-4)
    assert np.abs(found - ported.sample(IDS.numpy(), known.numpy(), NoiseGenerator(3))).max() > 0.01


def test_frames_are_rounded_alike():
    values = torch.tensor([0.4, 3.7, 2.2, 0.1, 5.5])
    for total in (None, 1, 9, 40):
        np.testing.assert_array_equal(timing.whole_frames(values.numpy(), total), whole_frames(values, total))
