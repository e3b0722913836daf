"""Every arm on the same prompts, seeds and durations, in turns, in one process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem, Metric, Speech
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.evaluation.systems import DTMSystem, ForeignSystem, Said, System, log_mel, system_of, vocode

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
        arms (`list[Arm | ForeignArm]`): How.
        seeds (`list[int]`): Of the noise; each arm starts from the same.
        metrics (`list[Metric]`): Judges.
        records ([`Records`]): What is known, and where new figures go.
        batch_size (`int`, defaults to 4): Items sampled at once.
        student ([`DTMPipeline`], *optional*): Speaks for the arms of a student.
        others (sequence of [`ForeignSystem`], *optional*): Speak for the arms of their kinds.
    """

    pipe: "DTMPipeline"
    items: BenchmarkSet
    arms: list[Arm | ForeignArm]
    seeds: list[int]
    metrics: list[Metric]
    records: Records
    batch_size: int = 4
    student: "DTMPipeline | None" = None
    others: Sequence[ForeignSystem] = ()

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
            kept = self.records.mel(arm.name, index, self.seeds[0])
            yield arm.name, self.system(arm).hear([kept])[0]

    def system(self, arm: Arm | ForeignArm) -> System:
        """Who speaks an arm, as of [`~dtm_hf.evaluation.systems.system_of`]."""
        return system_of(arm, DTMSystem(self.pipe, self.student), self.others)

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
        extractor = self.pipe.feature_extractor
        mel = log_mel(extractor, recording, rate)
        yield "recording", Speech(recording, rate, mel)
        yield "vocoded", Speech(vocode(self.pipe, [mel])[0], self.pipe.vocoder.sampling_rate, mel)
        noise = np.random.default_rng(index).normal(0, np.sqrt(np.mean(recording**2)), len(recording))
        noise = noise.astype(np.float32)
        yield "white-noise", Speech(noise, rate, log_mel(extractor, noise, rate))

    def _judge_arm(self, arm: Arm | ForeignArm, seed: int, batch: list[tuple[int, BenchmarkItem]]) -> None:
        due = [(index, item) for index, item in batch if self.records.missing(arm.name, item.id, seed, self._names())]
        # A mel is there without its figures if the run was killed between the two, or a metric is new.
        mels = {index: self.records.mel(arm.name, index, seed) for index, _ in due}
        unsaid = [(index, item) for index, item in due if mels[index] is None]
        if unsaid:
            for (index, item), said in zip(unsaid, self._sample(arm, seed, unsaid), strict=True):
                if said.figures:
                    # First: a mel that is there is not said again.
                    self.records.append(arm.name, item.id, seed, said.figures)
                mels[index] = self.records.write_mel(arm.name, index, seed, said.kept)
        speeches = self.system(arm).hear([mels[index] for index, _ in due]) if due else []
        for (_, item), speech in zip(due, speeches, strict=True):
            self._judge(arm.name, seed, item, speech)

    def _judge(self, name: str, seed: int | None, item: BenchmarkItem, speech: Speech) -> None:
        missing = self.records.missing(name, item.id, seed, self._names())
        figures = {metric.name: metric(speech, item) for metric in self.metrics if metric.name in missing}
        if figures:
            self.records.append(name, item.id, seed, figures)

    def _judge_diversity(self, arm: Arm | ForeignArm, batch: list[tuple[int, BenchmarkItem]]) -> None:
        from dtm_hf.evaluation.metrics.diversity import diversity

        # Of all seeds together: a line of its own for each set of seeds would be needed to keep fewer.
        for index, item in batch:
            name = diversity_name(self.seeds)
            if len(self.seeds) > 1 and self.records.missing(arm.name, item.id, None, [name]):
                kept = [self.records.mel(arm.name, index, seed) for seed in self.seeds]
                if isinstance(arm, ForeignArm):
                    # What is kept of it may be codes.
                    kept = [speech.mel for speech in self.system(arm).hear(kept)]
                self.records.append(arm.name, item.id, None, {name: (diversity(kept), 1.0)})

    def _sample(self, arm: Arm | ForeignArm, seed: int, batch: list[tuple[int, BenchmarkItem]]) -> list[Said]:
        seeds = [item_seed(seed, index) for index, _ in batch]
        return self.system(arm).say(arm, [item for _, item in batch], self.items.sampling_rate, seeds)


def item_seed(seed: int, index: int) -> int:
    """Seed of one item's noise: the same for all arms, another for each item."""
    return seed * 100_003 + index


def diversity_name(seeds: list[int]) -> str:
    """Key of the diversity over these seeds."""
    return f"{DIVERSITY}-{'-'.join(map(str, seeds))}"
