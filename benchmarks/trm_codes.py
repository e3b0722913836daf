"""
What a codec leaves of recordings, and what TRMs say in its codes: word error and mel distance of the codec's own
resynthesis, and for each number of cycles, with feedback and without, the share of the recording's codes that come
out, word error, mel distance, and seconds a second of speech. Each sentence is given its recording's own length, so
that codes can be compared; the likeliest codes are taken. Several TRMs are runs of one recipe with other seeds: their
figures are pooled, and intervals are over sentences.

    python benchmarks/trm_codes.py corpus/closed-1v runs/codec_tiny --books 1 2 4
    python benchmarks/trm_codes.py corpus/closed-1v runs/codec_tiny runs/trm_tiny-0 runs/trm_tiny-1 --picture trm.png
    python benchmarks/trm_codes.py corpus/closed-1v runs/codec_tiny runs/trm_new --against runs/trm_old
"""

import argparse
import time
from dataclasses import dataclass, field
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
from dtm_hf.evaluation.statistics import Estimate, paired_difference, ratio
from dtm_hf.evaluation.systems import log_mel
from dtm_hf.files import written_aside

DECODINGS = {"feedback": "masked", "independent": "independent"}
METRICS = ("word error", "mel distance")


@dataclass
class Figures:
    """Numerators and denominators `(items, seeds)` of each column."""

    pairs: dict[str, list[list[tuple[float, float]]]] = field(default_factory=dict)

    def add(self, column: str, pairs: list[tuple[float, float]]) -> None:
        """Those of a seed, an item each."""
        self.pairs.setdefault(column, []).append(pairs)

    def of(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        above, below = np.array(self.pairs[column], dtype=float).transpose(2, 1, 0)
        return above, below


class Judges:
    """Word error and mel distance of what is said of the items of a set."""

    def __init__(self, corpus, recognizer: str | None):
        listener = load_recognizer(recognizer or corpus.recognizer, corpus.vocabulary)
        self.items, self.rate = corpus.items, corpus.sampling_rate
        metrics = (WordErrorRate(listener), MelDistance(RecordingMels(self.rate)))
        self.metrics = dict(zip(METRICS, metrics, strict=True))
        self.ears = listener.name
        self.extractor = F5FeatureExtractor()

    def judge(self, figures: Figures, waves: list[np.ndarray]) -> None:
        """Adds a seed's figures of both."""
        speeches = [Speech(wave, self.rate, log_mel(self.extractor, wave, self.rate)) for wave in waves]
        for name, metric in self.metrics.items():
            figures.add(name, [self._figure(metric, *given) for given in zip(speeches, self.items, strict=True)])

    @staticmethod
    def _figure(metric, speech: Speech, item: BenchmarkItem) -> tuple[float, float]:
        return metric(speech, item) or (np.nan, np.nan)

    def row(self, name: str, waves: list[np.ndarray], *more: str) -> str:
        """A line of the table."""
        figures = Figures()
        self.judge(figures, waves)
        return line(name, figures, *more)


def line(name: str, figures: Figures, *more: str) -> str:
    """A line of the table, of its name, the columns that it alone has, and both metrics."""
    cells = [shown(ratio(*figures.of(metric))) for metric in METRICS]
    return f"| {name} | {' | '.join([*more, *[''] * (2 - len(more)), *cells])} |"


def shown(found: Estimate, sign: str = "") -> str:
    """A figure and its interval, as the table has it."""
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def spoken(
    pipes: list[TRMPipeline], judges: Judges, codes: list[torch.Tensor], cycles: int, decoding: str, temperature: float
) -> Figures:
    """Figures of an arm: of codes ("all", "first"), of seconds, and of both metrics."""
    figures = Figures()
    for seed, pipe in enumerate(pipes):
        books, size = pipe.model.config.num_codebooks, pipe.codec.config.frame_size
        waves, every, first, seconds = [], [], [], []
        for item, wanted in zip(judges.items, codes, strict=True):
            begun = time.perf_counter()
            voice = item.speaker if item.speaker in pipe.speakers else 0
            (row,) = pipe.prepare(item.text, voice, duration_s=wanted.shape[1] * size / pipe.sampling_rate)
            draw = None if temperature == 0 else torch.Generator().manual_seed(seed)
            (found,) = pipe.sample(
                [row], cycles, decoding=DECODINGS[decoding], temperature=temperature, top_k=None, generator=draw
            )
            waves.append(pipe.decode([row], [found])[0])
            seconds.append((time.perf_counter() - begun, len(waves[-1]) / pipe.sampling_rate))
            hits = (found == wanted[:books]).sum(dim=1).tolist()
            every.append((sum(hits), books * wanted.shape[1]))
            first.append((hits[0], wanted.shape[1]))
        for column, pairs in (("all", every), ("first", first), ("seconds", seconds)):
            figures.add(column, pairs)
        judges.judge(figures, waves)
    return figures


def arm_line(name: str, figures: Figures) -> str:
    """A line of the table."""
    right = f"{shown(ratio(*figures.of('all')))}, book 1 {ratio(*figures.of('first')).value:.3f}"
    return line(name, figures, right, f"{ratio(*figures.of('seconds')).value:.3f}")


def less(name: str, figures: Figures, other: str, others: Figures) -> str:
    """A line of the table: by how much one has more of both metrics than another, paired."""
    found = [paired_difference(figures.of(metric), others.of(metric)) for metric in METRICS]
    return f"| {name} less {other} | | | {' | '.join(shown(each, '+') for each in found)} |"


def differences(arms: dict[tuple[int, str], Figures], cycles: list[int]) -> list[str]:
    """Feedback less independent draws at each number of cycles, and each number with feedback less the one before."""
    lines = []
    pairs = [((number, "feedback"), (number, "independent")) for number in cycles]
    pairs += [((after, "feedback"), (before, "feedback")) for before, after in zip(cycles, cycles[1:], strict=False)]
    for one, other in pairs:
        lines.append(less(" ".join(map(str, one)), arms[one], " ".join(map(str, other)), arms[other]))
    return lines


def draw(arms: dict[tuple[int, str], Figures], codec: Figures, cycles: list[int], path: Path) -> None:
    """A PNG of both metrics over the cycles, of both ways to decode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        for decoding, style in zip(DECODINGS, ("-", "--"), strict=True):
            found = [ratio(*arms[number, decoding].of(metric)) for number in cycles]
            error = [
                [max(each.value - each.low, 0) for each in found],
                [max(each.high - each.value, 0) for each in found],
            ]
            values = [each.value for each in found]
            axes.errorbar(cycles, values, yerr=error, fmt=style, marker="o", markersize=4, capsize=2, label=decoding)
        axes.axhline(ratio(*codec.of(metric)).value, color="tab:green", linewidth=0.8, label="the codec's own")
        axes.set_xlabel("cycles H")
        axes.set_xticks(cycles)
        axes.set_title(metric, fontsize="medium")
        axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "corpus", type=Path, help="folder of recordings, with a closed vocabulary or a recogniser named"
    )
    parser.add_argument("codec", type=Path)
    parser.add_argument("pipelines", type=Path, nargs="*", help="folders of TRMs in the codec's codes, seeds of one")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--cycles", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--books", type=int, nargs="*", default=[], help="resynthesis of the first books alone, too")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the draws; 0 takes the likeliest")
    parser.add_argument("--recognizer", help="that of the corpus by default")
    parser.add_argument("--picture", type=Path, help="PNG of the figures over the cycles")
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], help="as many TRMs of another recipe, to be less than"
    )
    given = parser.parse_args(argv)
    if given.against and len(given.against) != len(given.pipelines):
        parser.error(f"--against: {len(given.against)} TRMs cannot be paired with {len(given.pipelines)}")
    corpus = load_set(str(given.corpus), given.limit, given.split)
    judges, codec = Judges(corpus, given.recognizer), load_codec(given.codec, dtype=torch.float32)
    pipes, others = (
        [TRMPipeline.from_pretrained(name) for name in names] for names in (given.pipelines, given.against)
    )
    for pipe in [*pipes, *others]:
        pipe.set_progress_bar_config(disable=True)
    recordings = [item.recording for item in corpus.items]
    codes = [encode_recordings(codec, [torch.from_numpy(recording)])[0] for recording in recordings]
    print(f"{len(recordings)} sentences of {given.corpus}, {given.split}; {len(pipes)} seeds; {judges.ears}\n")
    print("| | codes right | s a second | word error | mel distance |\n|---|---|---|---|---|")
    recorded = Figures()
    judges.judge(recorded, recordings)
    print(line("recordings", recorded), flush=True)
    spoken_in = {pipe.model.config.num_codebooks for pipe in pipes}
    resynthesis = {}
    for books in sorted({*given.books, *spoken_in, codec.config.num_quantizers}):
        figures = resynthesis[books] = Figures()
        judges.judge(figures, [decode_codes(codec, [item[:books]])[0].numpy() for item in codes])
        name = f"codec, {books} books"
        print(line(name, figures), less(name, figures, "recordings", recorded), sep="\n", flush=True)
    if not pipes:
        return
    arms = {}
    for number in given.cycles:
        for decoding in DECODINGS:
            arms[number, decoding] = spoken(pipes, judges, codes, number, decoding, given.temperature)
            print(arm_line(f"{number} {decoding}", arms[number, decoding]), flush=True)
    print(*differences(arms, given.cycles), sep="\n")
    for (number, decoding), figures in arms.items() if others else ():
        name, known = f"{number} {decoding}", spoken(others, judges, codes, number, decoding, given.temperature)
        print(arm_line(f"{name}, against", known), less(name, figures, "against", known), sep="\n", flush=True)
    if given.picture is not None:
        draw(arms, resynthesis[max(spoken_in)], given.cycles, given.picture)


if __name__ == "__main__":
    main()
