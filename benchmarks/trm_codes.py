"""
What a codec leaves of recordings, and what a TRM says in its codes: word error and mel distance of the codec's own
resynthesis, and for each number of cycles, with feedback and without, the share of the recording's codes that come
out, word error, mel distance, and seconds a second of speech. Each sentence is given its recording's own length, so
that codes can be compared; the likeliest codes are taken.

    python benchmarks/trm_codes.py corpus/closed-1v runs/codec_tiny
    python benchmarks/trm_codes.py corpus/closed-1v runs/codec_tiny runs/trm_tiny --limit 50 --cycles 1 2 4
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dtm_hf import F5FeatureExtractor, TRMPipeline
from dtm_hf.codec.mimi import decode_codes, encode_recordings, load_codec
from dtm_hf.evaluation.metric import BenchmarkItem, Speech
from dtm_hf.evaluation.metrics.sound import MelDistance, RecordingMels
from dtm_hf.evaluation.metrics.words import WordErrorRate
from dtm_hf.evaluation.recognizers import load_recognizer
from dtm_hf.evaluation.sets import load_set
from dtm_hf.evaluation.statistics import ratio
from dtm_hf.evaluation.systems import log_mel

DECODINGS = {"": "masked", ":independent": "independent"}


class Judges:
    """Word error and mel distance of what is said of the items of a set."""

    def __init__(self, corpus, recognizer: str | None):
        listener = load_recognizer(recognizer or corpus.recognizer, corpus.vocabulary)
        self.items, self.rate = corpus.items, corpus.sampling_rate
        self.metrics = [WordErrorRate(listener), MelDistance(RecordingMels(self.rate))]
        self.extractor = F5FeatureExtractor()

    def row(self, name: str, waves: list[np.ndarray], *more: str) -> str:
        """A line of the table."""
        cells = []
        for metric in self.metrics:
            pairs = [self._figure(metric, wave, item) for wave, item in zip(waves, self.items, strict=True)]
            cells.append(interval(*np.array(pairs, dtype=float).T[..., None]))
        return f"| {name} | {' | '.join([*more, *[''] * (2 - len(more)), *cells])} |"

    def _figure(self, metric, wave: np.ndarray, item: BenchmarkItem) -> tuple[float, float]:
        speech = Speech(wave, self.rate, log_mel(self.extractor, wave, self.rate))
        return metric(speech, item) or (np.nan, np.nan)


def interval(numerators: np.ndarray, denominators: np.ndarray) -> str:
    """A ratio and its interval, as the table has it."""
    found = ratio(numerators, denominators)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def spoken(pipe: TRMPipeline, judges: Judges, codes: list[torch.Tensor], cycles: list[int]) -> Iterator[str]:
    """Lines of the arms of a pipeline."""
    books, rate = pipe.model.config.num_codebooks, pipe.sampling_rate
    for number in cycles:
        for suffix, decoding in DECODINGS.items():
            waves, right, seconds = [], [], 0.0
            for item, wanted in zip(judges.items, codes, strict=True):
                begun = time.perf_counter()
                voice = item.speaker if item.speaker in pipe.speakers else 0
                (row,) = pipe.prepare(
                    item.text, voice, duration_s=wanted.shape[1] * pipe.codec.config.frame_size / rate
                )
                (found,) = pipe.sample([row], number, decoding=decoding, temperature=0)
                waves.append(pipe.decode([row], [found])[0])
                seconds += time.perf_counter() - begun
                hits = (found == wanted[:books]).sum(dim=1).tolist()
                right.append([sum(hits), hits[0], wanted.shape[1]])
            hits, first, frames = np.array(right, dtype=float).T[..., None]
            share = f"{interval(hits, books * frames)}, book 1 {first.sum() / frames.sum():.3f}"
            speed = f"{seconds / (sum(map(len, waves)) / rate):.3f}"
            yield judges.row(f"trm-{number}{suffix}", waves, share, speed)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "corpus", type=Path, help="folder of recordings, with a closed vocabulary or a recogniser named"
    )
    parser.add_argument("codec", type=Path)
    parser.add_argument("pipeline", type=Path, nargs="?", help="folder of a TRM in the codec's codes")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--cycles", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--books", type=int, nargs="*", default=[], help="resynthesis of the first books alone, too")
    parser.add_argument("--recognizer", help="that of the corpus by default")
    given = parser.parse_args()
    corpus = load_set(str(given.corpus), given.limit, given.split)
    judges, codec = Judges(corpus, given.recognizer), load_codec(given.codec, dtype=torch.float32)
    recordings = [item.recording for item in corpus.items]
    codes = [encode_recordings(codec, [torch.from_numpy(recording)])[0] for recording in recordings]
    print(f"{len(recordings)} sentences of {given.corpus}, {given.split}; {judges.metrics[0].ears.name}\n")
    print("| | codes right | s a second | word error | mel distance |\n|---|---|---|---|---|")
    print(judges.row("recordings", recordings), flush=True)
    for books in sorted({*given.books, codec.config.num_quantizers}):
        waves = [decode_codes(codec, [item[:books]])[0].numpy() for item in codes]
        print(judges.row(f"codec, {books} books", waves), flush=True)
    if given.pipeline is not None:
        pipe = TRMPipeline.from_pretrained(given.pipeline)
        pipe.set_progress_bar_config(disable=True)
        for line in spoken(pipe, judges, codes, given.cycles):
            print(line, flush=True)


if __name__ == "__main__":
    main()
