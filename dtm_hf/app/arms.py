"""One sentence by several ways to sample."""

import threading
import time
from dataclasses import dataclass

import numpy as np

from dtm_hf.app.desk import Voice
from dtm_hf.evaluation.arms import Arm, parse_arms
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.samplers import run_arm
from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

MAX_ARMS = 6
_MAX_CHARACTERS = 400
_STEPS = (32, 16, 8, 4, 2)


@dataclass(frozen=True, eq=False)
class ArmSpeech:
    """What an arm said: samples `(T,)`, the seconds that it took, and its passes."""

    arm: Arm
    audio: np.ndarray
    seconds: float
    passes: int


class Arms:
    """
    Ways to sample with one backbone.

    Args:
        pipeline ([`DTMPipeline`]): with a head or without.
        student ([`DTMPipeline`], *optional*): with a student; by default `pipeline` itself if it has one.

    The networks are shared with who speaks otherwise, and the pipelines themselves are not: an arm mounts its own
    scheduler in one.
    """

    def __init__(self, pipeline: DTMPipeline, student: DTMPipeline | None = None):
        self.pipeline = own_pipeline(pipeline)
        # What was made one with its student runs nothing else.
        itself = self.pipeline if pipeline.backbone.config.step_counts is not None else None
        self.student = itself if student is None else own_pipeline(student)
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Arms that these networks can run, the dearest first."""
        names = []
        if self.pipeline.backbone.config.step_counts is None:
            names = [f"euler-{steps}" for steps in _STEPS[:-1]] + ["epss-7"]
        if self.pipeline.head is not None:
            names += [f"dtm-{steps}x1" for steps in _STEPS[2:]]
        if self.student is not None:
            names += [f"student-{steps}" for steps in sorted(self.student.backbone.config.step_counts, reverse=True)]
        return names

    def run(self, names: list[str], text: str, voice: Voice, seed: int):
        """
        Yields an [`ArmSpeech`] for each arm, one after the other.

        Raises:
            ValueError: for no arm or too many, and for what cannot be spoken.
        """
        if not names or len(names) > MAX_ARMS:
            raise ValueError(f"Choose 1 to {MAX_ARMS} ways to speak, but got {len(names)}.")
        if len(text or "") > _MAX_CHARACTERS:
            raise ValueError(f"`text` must be at most {_MAX_CHARACTERS} characters here, but got {len(text)}.")
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"Ways to speak are {self.names}, but got {unknown[0]!r}.")
        rate = self.pipeline.feature_extractor.sampling_rate
        item = BenchmarkItem(id="page", text=text, reference_audio=voice.audio, reference_text=voice.text)
        baked = self.pipeline.head is not None and self.pipeline.head.config.guidance_scale is not None
        for arm in parse_arms(",".join(names)):
            with self._lock:
                started = time.perf_counter()
                output = run_arm(self.pipeline, arm, [item], rate, [seed], student=self.student)
                seconds = time.perf_counter() - started
            yield ArmSpeech(arm, output.audios[0], seconds, arm.backbone_passes(baked))


def own_pipeline(pipeline: DTMPipeline) -> DTMPipeline:
    """The same networks in a pipeline of its own."""
    config = pipeline.config
    own = DTMPipeline(**pipeline.components, force_head=config.force_head, mean_mel=config.mean_mel)
    own.set_progress_bar_config(disable=True)
    return own
