"""The last rungs of the gate, of sounds that are made up: what is heard, and what it costs."""

import mmap
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import voice

from dtm_hf.ports.comparison import beside_two_seeds
from dtm_hf.ports.cost import cpu_name, speaking_cost
from dtm_hf.ports.end_to_end import end_to_end
from dtm_hf.ports.tolerance import BARS

TEXTS = ("one", "two words")
SOUNDS = {
    "source": [voice(0.3), voice(0.5)],
    "port": [voice(0.3), voice(0.5)],
    "another seed": [voice(0.3, pitch=190, seed=1), voice(0.4, pitch=190, seed=2)],
}


def hear(port=None, weights="fp32", judges=None):
    sounds = SOUNDS | ({} if port is None else {"port": port})
    return end_to_end(TEXTS, sounds.__getitem__, 24000, BARS[weights], judges)


def test_the_same_sound_passes_beside_the_distance_of_two_seeds():
    heard = hear()
    assert heard["passed"] and [row["text"] for row in heard["utterances"]] == list(TEXTS)
    for row, seconds in zip(heard["utterances"], (0.3, 0.5), strict=True):
        assert row["mel distance"] == 0 and row["of two seeds"] > 0.1 and row["seconds"] == pytest.approx(seconds)


@pytest.mark.parametrize("weights", BARS)
def test_another_sound_fails(weights):
    quiet, noise = np.zeros_like(SOUNDS["source"][0]), np.random.default_rng(0).normal(size=7200).astype(np.float32)
    short = SOUNDS["source"][0][:-2000]
    for wrong in (quiet, noise, short, np.full_like(quiet, np.nan)):
        assert not hear([wrong, SOUNDS["source"][1]], weights)["passed"]


def test_judges_are_asked_about_all_three_and_add_up():
    def judge(text, sound, rate, beside):
        assert rate == 24000
        if text == "one" and np.array_equal(sound, SOUNDS["another seed"][0]):
            return None
        return float(not np.array_equal(sound, beside)), float(len(text.split()))

    figures = hear(judges={"wrong": judge})["figures"]
    assert figures == {"wrong": {"source": 0.0, "port": 0.0, "another seed": 0.5}}


def test_what_speaking_costs():
    kept = []

    def speak():
        # Of the system, for an allocator may have kept as much; touched, so that it is resident, and given back.
        with mmap.mmap(-1, 64_000_000) as memory:
            memory.write(b"x" * 64_000_000)
        return 2.0

    found = speaking_cost({"port": speak}, {"port": lambda: kept.append(1)})["port"]
    assert kept == [1] and 0 < found["real-time factor"] < 10 and found["first audio seconds"] >= 0
    assert 50e6 < found["peak resident bytes above those before"] < 200e6
    assert "first audio seconds" not in speaking_cost({"port": speak})["port"]


def test_the_cpu_has_a_name():
    shown = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    assert cpu_name() == shown[1] if shown else cpu_name()


def test_rounded_weights_may_round_a_length_to_the_other_side():
    """By one frame of a hundred; a tenth more is another utterance, and in float32 one frame is."""
    mels = torch.randn(2, 110, 4, generator=torch.Generator().manual_seed(0))
    (wanted, other), longer = mels[:, :100], mels[0, :101]
    for weights, mel, passes in (("int8", longer, True), ("int8", mels[0], False), ("fp32", longer, False)):
        distance, spread = beside_two_seeds(mel, wanted, other, BARS[weights].length)
        assert spread > 1 and (distance == 0) == passes and (distance <= spread) == passes
