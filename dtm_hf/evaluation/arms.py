"""Arms of a benchmark: named ways to sample, with what each costs. Imports no torch: a bad name is refused at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dtm_hf.evaluation.guidances import ReusedGuidance
from dtm_hf.mean_mel import MeanMel
from dtm_hf.pipelines.guidance import DEFAULT_GUIDANCE_SCALE, ClassifierFreeGuidance, Guidance, ZeroStarGuidance
from dtm_hf.scheduling.epss import EPSS_INDICES

# What stands behind the colon of a control when its name has none.
DEFAULT_PARAMETERS = {"renoise": 0.25, "noise": 0.1}

# Euler on the sway grid with another rule of guidance, and other solvers of the global flow.
_GUIDED = ("analytic", "zerostar", "reuse")
_SOLVERS = ("midpoint", "ab2", "dpmpp")
_KINDS = ("euler", "uniform", "epss", *_SOLVERS, *_GUIDED, "dtm", "oracle", "renoise", "noise", "student")
# Arms that anyone has without training: what a head must beat at no greater cost. The controls are among them, since
# a gain that they show as well is none of the head's.
TRAINING_FREE = ("euler", "uniform", "epss", *_SOLVERS, *_GUIDED, "renoise", "noise")
_NUMBER = r"\d+(?:\.\d+)?"
_FORM = re.compile(rf"([a-z]+2?)-(\d+)(?:x(\d+)|\+(\d+))?(?::({_NUMBER}))?(?:@({_NUMBER})(?::({_NUMBER}))?)?")
_FORMS = (
    "euler-N (or sway-N), uniform-N, epss-N, midpoint-N, ab2-N, dpmpp-N, analytic-N+K, zerostar-N, reuse-N, dtm-TxS, "
    "oracle-TxS, renoise-N:C or noise-N:STD, each with @GUIDANCE_SCALE or @GUIDANCE_SCALE:GUIDANCE_END behind it "
    "where wanted, or student-N"
)


@dataclass(frozen=True)
class Arm:
    """
    One way to sample. Two arms are equal when they sample alike, whatever they are called.

    Args:
        name (`str`): As it was given; the key in the results.
        kind (`str`):
            `"euler"` (Euler on the sway grid, coefficient -1), `"uniform"` (Euler on even steps), `"epss"` (Euler on
            F5-TTS's pruned grid); on the sway grid `"midpoint"`, `"ab2"` (Adams-Bashforth), `"dpmpp"`
            (DPM-Solver++(2M)), `"analytic"` (the null branch of the first step in closed form), `"zerostar"`
            (CFG-Zero*), `"reuse"` (the null branch at every other step); `"dtm"` (the flow head), `"oracle"` (the best
            flow head there could be, computed from the backbone), `"student"` (a distilled network), or a control:
            `"renoise"` (Euler with the noise put back after each step) and `"noise"` (Euler with white noise added to
            its mel).
        num_inference_steps (`int`): Global steps.
        num_head_steps (`int`, defaults to 0): Head calls a global step.
        guidance_scale (`float`, defaults to 3.0): F5-TTS's `cfg_strength` + 1; 1 is off.
        parameter (`float`, *optional*):
            Of a control: the share C of the remaining way that `"renoise"` jumps ahead, in [0, 1]; the standard
            deviation of `"noise"`, in log-mel units.
        guidance_end (`float`, defaults to 1.0): Time from which on steps go without guidance.
        null_passes (`int`, defaults to 0): Of `"analytic"`: steps after the first that run the null branch.
    """

    name: str = field(compare=False)
    kind: str
    num_inference_steps: int
    num_head_steps: int = 0
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    parameter: float | None = None
    guidance_end: float = 1.0
    null_passes: int = 0

    @property
    def needs_head(self) -> bool:
        """Whether the pipeline must have a trained head."""
        return self.kind == "dtm"

    @property
    def needs_student(self) -> bool:
        """Whether a distilled student must take the place of the pipeline."""
        return self.kind == "student"

    @property
    def sets_guidance(self) -> bool:
        """Whether the name asks for a guidance scale, which a head with another one baked in cannot give."""
        return "@" in self.name or self.guidance_scale != DEFAULT_GUIDANCE_SCALE

    def backbone_passes(self, baked: bool = False) -> int:
        """
        Passes of one utterance through the backbone, both branches of guidance counted.

        The oracle's head calls are backbone passes. `baked`: the head has guidance baked in, so that `"dtm"` arms run
        the conditional branch alone; the others guide as ever.
        """
        per_time = 1 + self.num_head_steps if self.kind == "oracle" else 1
        return per_time * self._branches(baked)

    def head_calls(self, baked: bool = False, guidance: Guidance | None = None) -> int:
        """
        Calls of the trained head for one utterance, both branches of guidance counted; with `guidance` that is baked
        into it, at those times alone where it runs.
        """
        if not self.needs_head:
            return 0
        if baked and guidance is not None:
            return self.num_head_steps * sum(guidance.runs_head(time) for time in self._times())
        return self.num_head_steps * self._branches(baked)

    def guidance(self, scale: float, mean: MeanMel | None = None) -> ClassifierFreeGuidance:
        """
        How the arm is guided at a scale.

        Args:
            scale (`float`): its own, or that of the pipeline's head.
            mean ([`~dtm_hf.mean_mel.MeanMel`], *optional*): mean log-mel, which `"analytic"` takes in the place of a
                pass; no other arm does.
        """
        times = self._times()
        if self.kind == "analytic":
            # Guidance ends with the first step that has no null pass.
            end = [*times[1:], 1.0][self.null_passes]
            return ClassifierFreeGuidance(scale, stop=min(end, self.guidance_end), mean=mean)
        if self.kind == "zerostar":
            return ZeroStarGuidance(scale, stop=self.guidance_end)
        if self.kind == "reuse":
            return ReusedGuidance(scale, stop=self.guidance_end, null_times=tuple(times[::2]))
        return ClassifierFreeGuidance(scale, stop=self.guidance_end)

    def _branches(self, baked: bool) -> int:
        """Branches of guidance over all times of the loop."""
        times = self._times()
        if (baked and self.needs_head) or self.needs_student:
            return len(times)
        # The values of the mean do not matter here.
        guidance = self.guidance(self.guidance_scale, mean=())
        return sum(2 if guidance.branch(time) == "both" else 1 for time in times)

    @property
    def time_grid(self) -> str:
        """Name of its global grid; a head is taken to run on the sway grid, as by default."""
        if self.kind == "noise":
            return "epss" if self.num_inference_steps in EPSS_INDICES else "sway"
        return self.kind if self.kind in ("uniform", "epss") else "sway"

    def _times(self) -> list[float]:
        """Times of the backbone passes of the loop."""
        # Not needed to refuse a name, and it imports torch.
        from dtm_hf.scheduling.time_grids import time_grid

        grid = time_grid(self.time_grid, self.num_inference_steps).tolist()
        if self.kind == "midpoint":
            return [time for a, b in zip(grid, grid[1:], strict=False) for time in (a, (a + b) / 2)]
        return grid[:-1]


def parse_arm(name: str) -> Arm:
    """
    `euler-32` (32 steps as F5-TTS takes them; `sway-32` is the same), `uniform-8`, `epss-7`, `midpoint-4` (8 passes),
    `dtm-4x2` (4 global steps of 2 head calls), `oracle-4x4`, `student-4` (4 steps of a distilled network), and the
    controls `renoise-8:0.25` and `noise-7:0.1` (parameters as in [`Arm`]; without one that of `DEFAULT_PARAMETERS`).
    `ab2-4` and `dpmpp-4` are multistep solvers; `zerostar-4` and `reuse-4` guide by another rule; `analytic-4` guides
    the first step without a null branch and no other, `analytic-4+1` the second one as well, with it. `euler-8@1` is
    without guidance, `euler-8@1.5` with less, `euler-8@2:0.25` with guidance in the steps that start before t = 0.25
    alone.

    F5-TTS itself goes over to its pruned grid at 5, 6, 7, 10, 12 and 16 steps: there, what it does is `epss-N`.

    Raises:
        ValueError: for another form, no steps, a pruned grid that F5-TTS does not have, or a number out of its range.
    """
    match = _FORM.fullmatch(name)
    if match is None:
        raise ValueError(f"`arms` must be of the forms {_FORMS}, but got {name!r}.")
    kind, steps, calls, nulls, parameter, guidance, end = match.groups()
    kind = "euler" if kind == "sway" else kind
    if (
        kind not in _KINDS
        or (calls is not None) != (kind in ("dtm", "oracle"))
        or (nulls is not None and kind != "analytic")
    ):
        raise ValueError(f"`arms` must be of the forms {_FORMS}, but got {name!r}.")
    if parameter is not None and kind not in DEFAULT_PARAMETERS:
        raise ValueError(f"`arms` have a parameter behind a colon with renoise and noise alone, but got {name!r}.")
    if int(steps) < 1 or calls is not None and int(calls) < 1:
        raise ValueError(f"`arms` must take at least 1 step and, with a head, 1 head call a step, but got {name!r}.")
    if int(nulls or 0) >= int(steps):
        raise ValueError(f"`arms` may be analytic-N+K for K below N, the first step needing none, but got {name!r}.")
    if kind == "epss" and int(steps) not in EPSS_INDICES:
        raise ValueError(f"`arms` may be epss-N for N in {sorted(EPSS_INDICES)}, but got {name!r}.")
    if guidance is not None and kind == "student":
        raise ValueError(f"`arms` may be student-N without guidance, which it has learnt, but got {name!r}.")
    if guidance is not None and float(guidance) < 1:
        raise ValueError(f"`arms` must have a guidance scale of at least 1, which is none, but got {name!r}.")
    if end is not None and not 0 < float(end) <= 1:
        raise ValueError(f"`arms` must end guidance at a time in (0, 1], but got {name!r}.")
    value = DEFAULT_PARAMETERS.get(kind) if parameter is None else float(parameter)
    if kind == "renoise" and value > 1:
        raise ValueError(f"`arms` may be renoise-N:C for C in [0, 1], but got {name!r}.")
    return Arm(
        name=name,
        kind=kind,
        num_inference_steps=int(steps),
        num_head_steps=int(calls or 0),
        guidance_scale=DEFAULT_GUIDANCE_SCALE if guidance is None else float(guidance),
        parameter=value,
        guidance_end=1.0 if end is None else float(end),
        null_passes=int(nulls or 0),
    )


def parse_arms(names: str, parse: Callable[[str], Any] = parse_arm) -> list[Any]:
    """
    Arms from their names with commas between, in their order, each by `parse`.

    Raises:
        ValueError: for a bad name ([`parse_arm`]), none at all, or two that are the same.
    """
    arms: list[Any] = []
    for name in (part.strip() for part in names.split(",")):
        arm = parse(name)
        if arm in arms:
            same = arms[arms.index(arm)].name
            raise ValueError(f"`arms` must differ, but {name!r} is the same as {same!r}.")
        arms.append(arm)
    return arms
