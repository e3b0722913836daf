"""What is heard in the end: the sound of a port beside that of its source, and beside what another seed changes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.ports.comparison import beside_two_seeds
from dtm_hf.ports.tolerance import Bar

SIDES = ("source", "port", "another seed")
# A mean difference of log-mels of a hundredth of a decibel: below it two seeds that hardly differ are no measure.
_UNHEARD = 1e-3
Judge = Callable[[str, np.ndarray, int, np.ndarray], tuple[float, float] | None]
"""
A figure of one utterance: its text, waveform `(T,)`, rate in Hz and the waveform of the source to numerator and
denominator, which add up to a figure of all; `None` where there is none.
"""


def spoken_by(side: str, source: Any, ported: Any) -> tuple[Any, int]:
    """Of a side, one of `SIDES`: the pipeline that speaks, and the seed of its first text."""
    return (ported if side == "port" else source), (100 if side == "another seed" else 0)


def end_to_end(
    texts: Sequence[str],
    say: Callable[[str], Sequence[np.ndarray]],
    sampling_rate: int,
    bar: Bar,
    judges: Mapping[str, Judge] | None = None,
) -> dict[str, Any]:
    """
    Compare whole utterances as sound. The distance of their log-mels has to hold the bar; what judges say is put
    beside it and decides nothing, for a few sentences decide nothing about words.

    Args:
        texts (`list[str]`): what is said.
        say (`Callable`): a side, one of `SIDES`, to its waveforms `(T_i,)`, one a text.
        sampling_rate (`int`): of them, in Hz.
        bar ([`Bar`]): what is allowed.
        judges (`dict[str, Callable]`, *optional*): as [`Judge`], by name.

    Returns:
        `dict`: `passed`; `utterances`, each with the mel distance of port and source beside that of two seeds of the
        source; and the figures of the judges of each of the three.
    """
    sounds = {side: [np.asarray(sound, dtype=np.float32).ravel() for sound in say(side)] for side in SIDES}
    extractor = F5FeatureExtractor()
    rows = []
    for text, *waves in zip(texts, *sounds.values(), strict=True):
        wanted, mel, elsewise = (extractor.log_mel(torch.from_numpy(wave)[None])[0] for wave in waves)
        distance, spread = beside_two_seeds(mel, wanted, elsewise, bar.length)
        rows.append(
            {
                "text": text,
                "seconds": len(waves[1]) / sampling_rate,
                "mel distance": distance,
                "of two seeds": spread,
                # What is no number compares as false.
                "passed": distance <= max(bar.sound * spread, _UNHEARD),
            }
        )
    figures = {
        name: {side: _figure(judge, texts, sounds[side], sampling_rate, sounds["source"]) for side in SIDES}
        for name, judge in (judges or {}).items()
    }
    return {"passed": all(row["passed"] for row in rows), "utterances": rows, "figures": figures}


def _figure(judge: Judge, texts, sounds, sampling_rate: int, of_source) -> float | None:
    pairs = [
        judge(text, sound, sampling_rate, beside) for text, sound, beside in zip(texts, sounds, of_source, strict=True)
    ]
    told = [pair for pair in pairs if pair is not None]
    return sum(pair[0] for pair in told) / sum(pair[1] for pair in told) if told else None
