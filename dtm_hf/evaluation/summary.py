"""From the figures of items to a table: means, intervals, and the differences that decide."""

from dataclasses import asdict
from typing import Any

import numpy as np

from dtm_hf.evaluation.arms import TRAINING_FREE, Arm
from dtm_hf.evaluation.benchmark import CONTROLS, DIVERSITY, diversity_name
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import Metric
from dtm_hf.evaluation.metrics.words import WordErrorRate
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.evaluation.statistics import paired_difference, ratio
from dtm_hf.evaluation.systems import OWN_FIGURES
from dtm_hf.pipelines.guidance import choose_guidance

FROM_REFERENCE = "from_reference"


class Summary:
    """
    Args:
        items ([`BenchmarkSet`]), arms (`list[Arm | ForeignArm]`), seeds (`list[int]`), metrics (`list[Metric]`),
        records ([`Records`]): A benchmark that has run.
        timings (`dict`): Result of `time_arms`; may be empty, then backbone passes are the cost.
        baked (`bool`): Whether the pipeline's head has guidance baked in.
        reference (`str`): Name of the arm that all others are compared with.
        head_config ([`DTMHeadConfig`], *optional*): Of a head with guidance baked in: it may not run in all steps.
    """

    def __init__(
        self,
        items: BenchmarkSet,
        arms: list[Arm | ForeignArm],
        seeds: list[int],
        metrics: list[Metric],
        records: Records,
        timings: dict,
        baked: bool,
        reference: str,
        head_config: Any = None,
    ):
        self.items, self.arms, self.seeds, self.metrics = items, arms, seeds, metrics
        self.records, self.timings, self.baked, self.reference = records, timings, baked, reference
        self.head_config = head_config
        self._ids = [item.id for item in items.items]
        self._limits = {metric.name: metric.at_most for metric in metrics if hasattr(metric, "at_most")}
        names = [arm.name for arm in arms]
        if reference not in names:
            raise ValueError(f"`reference` must be one of the arms {names}, but got {reference!r}.")

    def results(self) -> dict:
        """
        `{"arms": {name: {"cost", "metrics", "against_reference", "against_best_training_free"}}, "controls":
        {name: {"metrics"}}, "checks", "kinds": {kind: {name: {metric: estimate}}}, "unheard": {word:
        [id, ...]}}`; beside the figures of the metrics an arm has those of `OWN_FIGURES` that its system gives,
        `"from_reference"` and, with several seeds, `"diversity"`. An estimate is `{"value", "low", "high", "n"}`.
        `"kinds"` is empty where no item names its kind.
        """
        arms = {}
        for arm in self.arms:
            rival = {metric.name: self._best_training_free(arm, metric) for metric in self.metrics}
            arms[arm.name] = {
                "cost": self._cost(arm),
                "metrics": self._metrics(arm.name, list(self.seeds)),
                "against_reference": {
                    metric.name: self._difference(metric, arm.name, self.reference)
                    for metric in self.metrics
                    if arm.name != self.reference
                },
                "against_best_training_free": {
                    name: {"arm": other, **(self._difference(self._metric(name), arm.name, other) or {})}
                    for name, other in rival.items()
                    if other is not None
                },
            }
        controls = {name: {"metrics": self._metrics(name, [None])} for name in CONTROLS}
        controls = {name: entry for name, entry in controls.items() if entry["metrics"]}
        return {
            "arms": arms,
            "controls": controls,
            "checks": self._checks(),
            "kinds": self._kinds([*arms, *controls]),
            "unheard": self._unheard(),
        }

    def _kinds(self, names: list[str]) -> dict[str, dict[str, dict[str, dict]]]:
        kinds = dict.fromkeys(item.kind for item in self.items.items if item.kind is not None)
        kept = {kind: [item.kind == kind for item in self.items.items] for kind in kinds}
        return {
            kind: {
                name: {
                    metric.name: asdict(ratio(above[rows], below[rows]))
                    for metric in self.metrics
                    for above, below in [self._pairs(name, metric.name)]
                    if (below[rows] > 0).any()
                }
                for name in names
            }
            for kind, rows in kept.items()
        }

    def _unheard(self) -> dict[str, list[str]]:
        """Words that the recogniser cannot hear, with the items that have no word error for them."""
        found: dict[str, list[str]] = {}
        for metric in self.metrics:
            if metric.name == WordErrorRate.name:
                for item in self.items.items:
                    for word in metric.ears.recognizer.unheard(item.text):
                        found.setdefault(word, []).append(item.id)
        return found

    def _metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)

    def _pairs(self, name: str, metric: str):
        seeds = [None] if name in CONTROLS else list(self.seeds)
        above, below = self.records.figures(name, metric, self._ids, seeds)
        limit = self._limits.get(metric)
        return (above if limit is None else np.minimum(above, below * limit)), below

    def _metrics(self, name: str, seeds: list[int | None]) -> dict[str, dict]:
        figures = {}
        for metric in [*(metric.name for metric in self.metrics), *OWN_FIGURES]:
            numerators, denominators = self._pairs(name, metric)
            if (denominators > 0).any():
                figures[metric] = asdict(ratio(numerators, denominators))
        if name not in CONTROLS and len(self.seeds) > 1:
            numerators, denominators = self.records.figures(name, diversity_name(self.seeds), self._ids, [None])
            if (denominators > 0).any():
                figures[DIVERSITY] = asdict(ratio(numerators, denominators))
        # Another system has no path from that noise.
        paths = {arm.name for arm in self.arms if isinstance(arm, Arm)}
        if name != self.reference and {name, self.reference} <= paths:
            distances = self._distances(name)
            if not np.isnan(distances).all():
                figures[FROM_REFERENCE] = asdict(ratio(distances, np.where(np.isnan(distances), np.nan, 1.0)))
        return figures

    def _distances(self, name: str) -> np.ndarray:
        """
        Root mean square difference of an arm's mels and those of the reference arm from the same noise, `(items,
        seeds)`: what a sampler that follows another's path makes of it. NaN where one has none.
        """
        found = np.full((len(self._ids), len(self.seeds)), np.nan)
        for i, j in np.ndindex(found.shape):
            mine, its = (self.records.mel(arm, i, self.seeds[j]) for arm in (name, self.reference))
            if mine is not None and its is not None and mine.shape == its.shape:
                found[i, j] = np.sqrt(np.square(mine - its).mean())
        return found

    def _cost(self, arm: Arm | ForeignArm) -> dict:
        guidance, timings = None, self.timings.get(arm.name, {})
        if isinstance(arm, ForeignArm):
            # Passes of another network are no measure of it.
            return {"backbone_passes": None, "head_calls": None, "timings": timings}
        if self.baked and self.head_config is not None:
            guidance = choose_guidance(None, arm.guidance_end, self.head_config)
        return {
            "backbone_passes": arm.backbone_passes(self.baked),
            "head_calls": arm.head_calls(self.baked, guidance),
            "timings": timings,
        }

    def _seconds(self, arm: Arm | ForeignArm) -> float:
        """NaN, which is not less than anything, where nothing is known."""
        timing = self.timings.get(arm.name, {}).get("1")
        if timing:
            return timing["seconds"]
        return float(arm.backbone_passes(self.baked)) if isinstance(arm, Arm) else float("nan")

    def _best_training_free(self, arm: Arm | ForeignArm, metric: Metric) -> str | None:
        affordable = [
            other
            for other in self.arms
            if other.kind in TRAINING_FREE and other.name != arm.name and self._seconds(other) <= self._seconds(arm)
        ]
        values = {}
        for other in affordable:
            numerators, denominators = self._pairs(other.name, metric.name)
            if (denominators > 0).any():
                values[other.name] = badness(metric, ratio(numerators, denominators).value)
        return min(values, key=values.get) if values else None

    def _difference(self, metric: Metric, name: str, other: str) -> dict | None:
        """How much worse `name` is than `other`: below 0 is better, whichever way the metric goes."""
        a, b = self._pairs(name, metric.name), self._pairs(other, metric.name)
        if not ((a[1] > 0).any() and (b[1] > 0).any()):
            return None
        return asdict(paired_difference(a, b, transform=lambda value: badness(metric, value)))

    def _checks(self) -> dict[str, list[dict]]:
        """
        Whether each metric sees what everybody hears: recordings before vocoded ones, these before many steps, many
        before few, and all before noise. A metric without a recording of its own judges the arms alone.
        """
        steps = sorted((arm for arm in self.arms if arm.kind == "euler"), key=lambda arm: -arm.num_inference_steps)
        steps = [arm.name for arm in steps if arm.guidance_scale == steps[0].guidance_scale]
        order = ["recording", "vocoded", *dict.fromkeys([*steps[:1], *steps[-1:]]), "white-noise"]
        checks: dict[str, list[dict]] = {}
        for metric in self.metrics:
            present = [name for name in order if (self._pairs(name, metric.name)[1] > 0).any()]
            values = [ratio(*self._pairs(name, metric.name)).value for name in present]
            bad = [badness(metric, value) for value in values]
            checks[metric.name] = [
                {"better": a, "worse": b, "holds": bool(x <= y)}
                for a, b, x, y in zip(present, present[1:], bad, bad[1:], strict=False)
            ]
        return checks


def badness(metric: Metric, value):
    """A figure turned so that less is better: a ratio's distance from 1 where that is the best."""
    if metric.higher_is_better is None:
        return abs(value - 1)
    return -value if metric.higher_is_better else value
