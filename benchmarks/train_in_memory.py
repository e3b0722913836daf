"""
Trains as `training/train.py` does, with all recordings in the memory of the device: a GPU takes about a second for
an hour of speech and a small network, and no number of processes decodes that fast. Each clip is decoded, made a
log-mel and aligned once.

    python benchmarks/train_in_memory.py --config training/configs/flow_matching_voice.yaml [--field value ...]

For the objectives on mels, and one process. What differs: sources weigh what they hold; a pair has at most
`_LONGEST_PAIR` frames, whose prompt ends in a blank that takes half of its last token; a resumed run begins anew
with its data. Device memory: 19 kB a second of speech.
"""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.training.data.loader import open_sources
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.speech.rows import UtteranceMaker
from dtm_hf.training.speech.task import SpeechTask
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

_LONGEST_PAIR = 1900
_BUCKET = 4000
_ALIGNED = 256


def read_shard(maker: UtteranceMaker, source, shard) -> list[tuple]:
    """Utterances and speakers of a shard; rows that cannot be trained on are left out."""
    found = []
    for _, row in source.rows(shard):
        try:
            found.append((maker.make(source, row), maker.group(source, row)))
        except (BadRow, WrongLength):
            continue
    return found


class Clips:
    """All clips of a split: log-mels `(frames, M)` in half precision on the device, one behind the other."""

    def __init__(self, config, components, split: str, device: torch.device):
        extractor, tokenizer = components.feature_extractor, components.tokenizer
        maker = UtteranceMaker(config.data, tokenizer, extractor)
        jobs = [
            (source, shard) for source in open_sources(config.data, split, maker.columns) for shard in source.shards
        ]
        ids, self.device, self.hop = tokenizer.get_vocab(), device, extractor.hop_length
        self.blank, self.ids, self.speakers, self.samples, mels = torch.tensor([ids[" "]]), [], [], [], []
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            for clips in pool.map(read_shard, [maker] * len(jobs), *zip(*jobs, strict=True)):
                for clip, speaker in clips:
                    mels.append(extractor.log_mel(torch.from_numpy(clip.waveform)[None].to(device))[0].half())
                    self.ids.append(torch.tensor([ids.get(token, tokenizer.unknown_id) for token in clip.tokens]))
                    self.speakers.append(speaker)
                    self.samples.append(len(clip.waveform))
        self.frames = [len(mel) for mel in mels]
        self.starts = torch.tensor([0, *self.frames]).cumsum(0).tolist()
        self.mels = torch.cat(mels)
        self.durations = None
        if components.text_aligner is not None:
            self.durations = self._aligned(components.text_aligner)

    def _aligned(self, aligner) -> list[torch.Tensor]:
        found, order = [None] * len(self.ids), sorted(range(len(self.ids)), key=self.frames.__getitem__)
        for at in range(0, len(order), _ALIGNED):
            clips = order[at : at + _ALIGNED]
            batch = self.batch([(None, clip) for clip in clips], 1)
            durations = aligner.align(batch.mel, batch.attention_mask, batch.text_ids).cpu()
            for clip, row in zip(clips, durations, strict=True):
                found[clip] = row[: len(self.ids[clip])]
        return found

    def size(self, pair: tuple[int | None, int]) -> int:
        """Frames of a clip, behind another or alone."""
        before, clip = pair
        return self.frames[clip] + (0 if before is None else self.samples[before] // self.hop)

    def _timed(self, before: int | None, clip: int) -> torch.Tensor:
        if before is None:
            return self.durations[clip]
        first = self.durations[before].clone()
        # A prompt ends on a whole number of hops.
        first[-1] = max(int(first[-1]) + self.samples[before] // self.hop - int(first.sum()), 0)
        blank = first[-1:] // 2
        first[-1:] -= blank
        return torch.cat([first, blank, self.durations[clip]])

    def batch(self, pairs: list[tuple[int | None, int]], multiple: int) -> MelBatch:
        """The batch of the pairs, padded to a multiple of frames."""
        prompts = [0 if before is None else self.samples[before] // self.hop for before, _ in pairs]
        starts = [0 if before is None else self.starts[before] for before, _ in pairs]
        ids = [
            self.ids[clip] if before is None else torch.cat([self.ids[before], self.blank, self.ids[clip]])
            for before, clip in pairs
        ]
        sizes = [self.size(pair) for pair in pairs]
        columns = torch.tensor([prompts, starts, [self.starts[clip] for _, clip in pairs], sizes]).to(self.device)
        prompt, start, behind, size = columns[:, :, None]
        position = torch.arange(-(-max(sizes) // multiple) * multiple, device=self.device)[None]
        index = torch.where(position < prompt, start + position, behind + position - prompt)
        mask = position < size
        mel = self.mels[index.clamp(max=len(self.mels) - 1)].float().masked_fill(~mask[..., None], 0.0)
        durations = None
        if self.durations is not None:
            rows = [self._timed(*pair) for pair in pairs]
            durations = pad_sequence(rows, batch_first=True).to(self.device)
        text_ids = pad_sequence(ids, batch_first=True, padding_value=-1).to(self.device)
        return MelBatch(mel, mask, text_ids, columns[0], durations)


class ClipBatches:
    """Pairs of clips in batches of like length, endless or for one pass."""

    def __init__(self, clips: Clips, data, seed: int, endless: bool):
        self.clips, self.data, self.seed, self.endless = clips, data, seed, endless

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """A resumed run begins a new pass."""

    def __iter__(self) -> Iterator[dict]:
        clips, rng = self.clips, random.Random(self.seed)
        while True:
            order, previous, samples = list(range(len(clips.ids))), {}, []
            if self.endless:
                rng.shuffle(order)
            for clip in order:
                before, previous[clips.speakers[clip]] = previous.get(clips.speakers[clip]), clip
                alone = before is None or rng.random() >= self.data.pair_probability
                joined = (None, clip) if alone else (before, clip)
                samples.append(joined if clips.size(joined) <= _LONGEST_PAIR else (None, clip))
            batches = [
                batch for at in range(0, len(samples), _BUCKET) for batch in self._cut(samples[at : at + _BUCKET])
            ]
            rng.shuffle(batches)
            for batch in batches:
                lengths = torch.tensor([clips.size(pair) * clips.hop - 1 for pair in batch])
                counts = {"bad_rows": {}, "dropped": {}, "bad_row_details": []}
                yield {"clips": clips, "pairs": batch, "num_samples": lengths} | counts
            if not self.endless:
                return

    def _cut(self, samples: list) -> list[list]:
        batches: list[list] = [[]]
        for pair in sorted(samples, key=self.clips.size):
            size = -(-self.clips.size(pair) // self.data.frame_multiple) * self.data.frame_multiple
            full = (len(batches[-1]) + 1) * size > self.data.frames_per_batch
            if batches[-1] and (full or len(batches[-1]) >= self.data.max_samples):
                batches.append([])
            batches[-1].append(pair)
        return batches


def load(task: SpeechTask, split: str, *, seed: int, rank: int, world_size: int, endless: bool) -> ClipBatches:
    """In the place of [`SpeechTask.loader`], on one process."""
    device = next(task.module.parameters()).device
    return ClipBatches(Clips(task.config, task.components, split, device), task.config.data, seed, endless)


def gather(task: SpeechTask, raw: dict, device: torch.device) -> MelBatch:
    """In the place of [`SpeechTask.batch`]."""
    return raw["clips"].batch(raw["pairs"], task.config.data.frame_multiple)


def main(argv: list[str]) -> None:
    try:
        config = parse_config(argv)
    except ValueError as error:
        raise SystemExit(f"train_in_memory.py: {error}") from None
    # Below what a task does with its batches, which stays.
    SpeechTask.loader, SpeechTask.batch = load, gather
    Trainer(config).train()


if __name__ == "__main__":
    main(sys.argv[1:])
