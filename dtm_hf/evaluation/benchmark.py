"""Every arm on the same prompts, seeds and durations, in turns, in one process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.metric import BenchmarkItem, Metric, Speech
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.sets import BenchmarkSet

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

# What the arms are set against: the truth, the truth through the vocoder, and nothing but noise.
CONTROLS = ("recording", "vocoded", "white-noise")
DIVERSITY = "diversity"


@dataclass
class Benchmark:
    """
    Args:
        pipe ([`DTMPipeline`]): Loaded, on its device.
        items ([`BenchmarkSet`]): What to say.
        arms (`list[Arm]`): How.
        seeds (`list[int]`): Of the noise; each arm starts from the same.
        metrics (`list[Metric]`): Judges.
        records ([`Records`]): What is known, and where new figures go.
        batch_size (`int`, defaults to 4): Items sampled at once.
        student ([`DTMPipeline`], *optional*): Speaks for the arms of a student.
    """

    pipe: "DTMPipeline"
    items: BenchmarkSet
    arms: list[Arm]
    seeds: list[int]
    metrics: list[Metric]
    records: Records
    batch_size: int = 4
    student: "DTMPipeline | None" = None

    @property
    def total(self) -> int:
        """Speeches to judge, controls included."""
        recorded = sum(item.recording is not None for item in self.items.items)
        return len(self.items.items) * len(self.arms) * len(self.seeds) + recorded * len(CONTROLS)

    def run(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Judge what is not judged yet; `advance` hears of each portion done."""
        numbered = list(enumerate(self.items.items))
        for start in range(0, len(numbered), self.batch_size):
            batch = numbered[start : start + self.batch_size]
            for index, item in batch:
                advance(self._judge_controls(index, item))
            for seed in self.seeds:
                # Arms in the inner loop: whatever the machine does meanwhile, it does to all of them.
                for arm in self.arms:
                    self._judge_arm(arm, seed, batch)
                    advance(len(batch))
            for arm in self.arms:
                self._judge_diversity(arm, batch)

    def speeches(self, index: int, item: BenchmarkItem) -> Iterator[tuple[str, Speech]]:
        """What the controls and the arms say of an item that has been judged, first seed; to look at and to hear."""
        if item.recording is not None:
            yield from self._controls(index, item)
        for arm in self.arms:
            mel = self.records.mel(arm.name, index, self.seeds[0])
            yield arm.name, Speech(vocode(self.pipe, [mel])[0], self.pipe.vocoder.sampling_rate, mel)

    def _names(self) -> list[str]:
        return [metric.name for metric in self.metrics]

    def _judge_controls(self, index: int, item: BenchmarkItem) -> int:
        if item.recording is None:
            return 0
        if any(self.records.missing(name, item.id, None, self._names()) for name in CONTROLS):
            for name, speech in self._controls(index, item):
                self._judge(name, None, item, speech)
        return len(CONTROLS)

    def _controls(self, index: int, item: BenchmarkItem) -> Iterator[tuple[str, Speech]]:
        rate = self.items.sampling_rate
        recording = np.asarray(item.recording, dtype=np.float32)
        mel = self._mel(recording)
        yield "recording", Speech(recording, rate, mel)
        yield "vocoded", Speech(vocode(self.pipe, [mel])[0], self.pipe.vocoder.sampling_rate, mel)
        noise = np.random.default_rng(index).normal(0, np.sqrt(np.mean(recording**2)), len(recording))
        noise = noise.astype(np.float32)
        yield "white-noise", Speech(noise, rate, self._mel(noise))

    def _judge_arm(self, arm: Arm, seed: int, batch: list[tuple[int, BenchmarkItem]]) -> None:
        due = [(index, item) for index, item in batch if self.records.missing(arm.name, item.id, seed, self._names())]
        # A mel is there without its figures if the run was killed between the two, or a metric is new.
        mels = {index: self.records.mel(arm.name, index, seed) for index, _ in due}
        unsaid = [(index, item) for index, item in due if mels[index] is None]
        if unsaid:
            for (index, _), mel in zip(unsaid, self._sample(arm, seed, unsaid), strict=True):
                mels[index] = self.records.write_mel(arm.name, index, seed, mel)
        waves = vocode(self.pipe, [mels[index] for index, _ in due]) if due else []
        for (index, item), wave in zip(due, waves, strict=True):
            self._judge(arm.name, seed, item, Speech(wave, self.pipe.vocoder.sampling_rate, mels[index]))

    def _judge(self, name: str, seed: int | None, item: BenchmarkItem, speech: Speech) -> None:
        missing = self.records.missing(name, item.id, seed, self._names())
        figures = {metric.name: metric(speech, item) for metric in self.metrics if metric.name in missing}
        if figures:
            self.records.append(name, item.id, seed, figures)

    def _judge_diversity(self, arm: Arm, batch: list[tuple[int, BenchmarkItem]]) -> None:
        from dtm_hf.evaluation.metrics.diversity import diversity

        # Of all seeds together: a line of its own for each set of seeds would be needed to keep fewer.
        for index, item in batch:
            name = diversity_name(self.seeds)
            if len(self.seeds) > 1 and self.records.missing(arm.name, item.id, None, [name]):
                mels = [self.records.mel(arm.name, index, seed) for seed in self.seeds]
                self.records.append(arm.name, item.id, None, {name: (diversity(mels), 1.0)})

    def _sample(self, arm: Arm, seed: int, batch: list[tuple[int, BenchmarkItem]]) -> list[np.ndarray]:
        from dtm_hf.evaluation.samplers import run_arm

        seeds = [item_seed(seed, index) for index, _ in batch]
        items = [item for _, item in batch]
        output = run_arm(self.pipe, arm, items, self.items.sampling_rate, seeds, "mel", student=self.student)
        return [mel.float().cpu().numpy() for mel in output.audios]

    def _mel(self, waveform: np.ndarray) -> np.ndarray:
        import torch

        samples = torch.from_numpy(waveform)[None].to(self.pipe._execution_device)
        return self.pipe.feature_extractor.log_mel(samples)[0].float().cpu().numpy()


def item_seed(seed: int, index: int) -> int:
    """Seed of one item's noise: the same for all arms, another for each item."""
    return seed * 100_003 + index


def diversity_name(seeds: list[int]) -> str:
    """Key of the diversity over these seeds."""
    return f"{DIVERSITY}-{'-'.join(map(str, seeds))}"


def vocode(pipe: "DTMPipeline", mels: list) -> list[np.ndarray]:
    """Waveforms `(T,)` of log-mels `(N, M)`, arrays or tensors, from one call of the pipeline's vocoder."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = [len(mel) for mel in mels]
    batch = pad_sequence([torch.as_tensor(mel) for mel in mels], batch_first=True).to(pipe._execution_device)
    # A vocoder with weights of its own, a Vocos, keeps them to be trained.
    with torch.no_grad():
        waves = pipe.vocoder(batch, lengths=torch.tensor(lengths)).float().cpu().numpy()
    hop = pipe.vocoder.hop_length
    return [wave[: (length - 1) * hop] for wave, length in zip(waves, lengths, strict=True)]
