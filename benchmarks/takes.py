"""
How much two takes of a sentence differ, in a corpus that has several of some sentences and in a benchmark with several
seeds: the standard deviation of the logarithm of their length and of their mean pitch, each within a sentence.

    dtm-hf benchmark --set corpus/kathleen --split test --seeds 0,1,2 --arms student-4 ... -o FOLDER
    python benchmarks/takes.py corpus/kathleen FOLDER student-4

A corpus prepared by `corpus prepare` has its takes in all splits; pauses at the ends are cut there as well as here.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from dtm_hf import DTMPipeline
from dtm_hf.commands.models import EMBEDDED
from dtm_hf.evaluation.metrics.sound import pitch
from dtm_hf.evaluation.systems import vocode

# Of a corpus: that many sentences tell its spread, and the tracker takes its time.
MOST_SENTENCES = 150
# Below the loudest frame, in natural logarithms of magnitude: the 45 dB at which corpora are cut.
QUIET = 45 / 20 * np.log(10)


def corpus_takes(folder: Path) -> list[list[tuple[np.ndarray, int]]]:
    """Waveforms and rates of the sentences that were said twice or more."""
    import io

    import pyarrow.parquet as parquet
    import soundfile

    rows = defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        for row in parquet.read_table(path, columns=["text", "speaker", "audio"]).to_pylist():
            rows[row["text"], row["speaker"]].append(row["audio"]["bytes"])
    several = [takes for takes in rows.values() if len(takes) > 1][:MOST_SENTENCES]
    return [[soundfile.read(io.BytesIO(take), dtype="float32") for take in takes] for takes in several]


def arm_takes(pipe: DTMPipeline, folder: Path, arm: str) -> list[list[tuple[np.ndarray, int]]]:
    """Waveforms and rates of the sentences of a benchmark, a take a seed."""
    mels = defaultdict(list)
    for path in sorted((folder / "mels" / arm).glob("*.npy")):
        mels[path.stem.split("-")[0]].append(np.load(path, allow_pickle=False).astype(np.float32))
    rate = pipe.vocoder.sampling_rate
    return [[(wave, rate) for wave in vocode(pipe, takes)] for takes in mels.values() if len(takes) > 1]


def spread(pipe: DTMPipeline, takes: list[list[tuple[np.ndarray, int]]]) -> tuple[float, float, int]:
    """Pooled deviation of log length and of mean pitch in semitones, and how many sentences."""
    lengths, pitches = [], []
    for sentence in takes:
        lengths.append(np.var([np.log(seconds(pipe, wave, rate)) for wave, rate in sentence], ddof=1))
        voiced = [found for wave, rate in sentence if len(found := pitch(wave, rate))]
        if len(voiced) > 1:
            pitches.append(np.var([found.mean() for found in voiced], ddof=1))
    return float(np.sqrt(np.mean(lengths))), float(np.sqrt(np.mean(pitches))), len(takes)


def seconds(pipe: DTMPipeline, waveform: np.ndarray, rate: int) -> float:
    """From the first frame that is not quiet to the last."""
    mel = pipe.feature_extractor.log_mel(torch.from_numpy(waveform)[None])[0].numpy().max(axis=1)
    loud = np.flatnonzero(mel > mel.max() - QUIET)
    return (loud[-1] - loud[0] + 1) * pipe.feature_extractor.hop_length / rate


def main(corpus: Path, folder: Path, arms: list[str]) -> None:
    pipe = DTMPipeline.from_pretrained(EMBEDDED)
    print("| | sentences | log length | mean pitch, semitones |\n|---|---|---|---|")
    for name in ["corpus", *arms]:
        takes = corpus_takes(corpus) if name == "corpus" else arm_takes(pipe, folder, name)
        length, height, count = spread(pipe, takes)
        print(f"| {name} | {count} | {length:.3f} | {height:.2f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
