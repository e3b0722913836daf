"""Names of arms and what they cost."""

import re
import subprocess
import sys

import pytest

from dtm_hf.evaluation.arms import DEFAULT_PARAMETERS, parse_arm, parse_arms
from dtm_hf.pipelines.guidance import BakedGuidance


@pytest.mark.parametrize(
    ("name", "kind", "steps", "calls", "guidance", "parameter"),
    [
        ("euler-32", "euler", 32, 0, 3.0, None),
        ("sway-8", "euler", 8, 0, 3.0, None),
        ("uniform-4", "uniform", 4, 0, 3.0, None),
        ("epss-7@1", "epss", 7, 0, 1.0, None),
        ("midpoint-2", "midpoint", 2, 0, 3.0, None),
        ("dtm-4x2", "dtm", 4, 2, 3.0, None),
        ("dtm-4x2@1.5", "dtm", 4, 2, 1.5, None),
        ("oracle-2x8", "oracle", 2, 8, 3.0, None),
        ("renoise-8", "renoise", 8, 0, 3.0, DEFAULT_PARAMETERS["renoise"]),
        ("renoise-8:0.5@2", "renoise", 8, 0, 2.0, 0.5),
        ("noise-7", "noise", 7, 0, 3.0, DEFAULT_PARAMETERS["noise"]),
        ("noise-7:0", "noise", 7, 0, 3.0, 0.0),
        ("student-4", "student", 4, 0, 3.0, None),
        ("ab2-4", "ab2", 4, 0, 3.0, None),
        ("dpmpp-8@2", "dpmpp", 8, 0, 2.0, None),
        ("analytic-4+1@2", "analytic", 4, 0, 2.0, None),
        ("zerostar-4", "zerostar", 4, 0, 3.0, None),
        ("reuse-4", "reuse", 4, 0, 3.0, None),
    ],
)
def test_names(name, kind, steps, calls, guidance, parameter):
    arm = parse_arm(name)
    assert (arm.name, arm.kind, arm.num_inference_steps, arm.num_head_steps) == (name, kind, steps, calls)
    assert (arm.guidance_scale, arm.parameter) == (guidance, parameter)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "euler-N"),
        ("euler", "euler-N"),
        ("heun-4", "euler-N"),
        ("euler-4x2", "euler-N"),
        ("dtm-4", "dtm-TxS"),
        ("euler-4-noguidance", "@GUIDANCE_SCALE"),
        ("euler--4", "euler-N"),
        ("euler-4@nan", "euler-N"),
        ("euler-0", "at least 1 step"),
        ("dtm-4x0", "1 head call"),
        ("epss-8", r"\[5, 6, 7, 10, 12, 16\]"),
        ("euler-8:0.1", "renoise and noise alone"),
        ("euler-8@0.5", "at least 1, which is none"),
        ("renoise-8:1.5", r"\[0, 1\]"),
        ("euler-8@2:1.5", r"\(0, 1\]"),
        ("euler-8@2:0", r"\(0, 1\]"),
        ("student-4x2", "student-N"),
        ("student-4@2", "without guidance"),
        ("euler-4+1", r"analytic-N\+K"),
        ("analytic-4+4", "K below N"),
    ],
)
def test_bad_names_are_refused_with_what_would_do(name, told):
    with pytest.raises(ValueError, match=rf"`arms` .*{told}.*but got '{re.escape(name)}'"):
        parse_arm(name)


@pytest.mark.parametrize(
    ("name", "passes", "passes_baked", "calls", "calls_baked"),
    [
        ("euler-32", 64, 64, 0, 0),
        ("euler-32@1", 32, 32, 0, 0),
        ("epss-7", 14, 14, 0, 0),
        ("midpoint-4", 16, 16, 0, 0),
        ("midpoint-4@1", 8, 8, 0, 0),
        ("renoise-8:0.5", 16, 16, 0, 0),
        ("noise-8", 16, 16, 0, 0),
        ("dtm-4x2", 8, 4, 16, 8),
        ("dtm-4x2@1", 4, 4, 8, 8),
        # A pass for the features that a trained head would read, and one for each call in its place.
        ("oracle-4x2", 24, 24, 0, 0),
        ("oracle-4x2@1", 12, 12, 0, 0),
        # Sway times of 4 steps: 0, 0.076, 0.293, 0.617; with the middles of the steps 0.038, 0.185, 0.455, 0.809.
        ("euler-4@2:0.25", 6, 6, 0, 0),
        ("ab2-4", 8, 8, 0, 0),
        ("dpmpp-4@1", 4, 4, 0, 0),
        ("analytic-4", 4, 4, 0, 0),
        ("analytic-4+1", 5, 5, 0, 0),
        ("analytic-4+3", 7, 7, 0, 0),
        ("zerostar-4", 8, 8, 0, 0),
        ("reuse-4", 6, 6, 0, 0),
        ("reuse-5", 8, 8, 0, 0),
        ("uniform-4@2:0.25", 5, 5, 0, 0),
        ("midpoint-4@2:0.25", 12, 12, 0, 0),
        ("dtm-4x2@2:0.25", 6, 4, 12, 8),
        ("oracle-4x2@2:0.25", 18, 18, 0, 0),
        # Sway times of the pruned grid: 0, 0.005, 0.019, 0.043, 0.076, 0.293, 0.617.
        ("epss-7@2:0.25", 12, 12, 0, 0),
        ("noise-7@2:0.25", 12, 12, 0, 0),
        ("student-4", 4, 4, 0, 0),
    ],
)
def test_costs(name, passes, passes_baked, calls, calls_baked):
    arm = parse_arm(name)
    assert (arm.backbone_passes(), arm.backbone_passes(baked=True)) == (passes, passes_baked)
    assert (arm.head_calls(), arm.head_calls(baked=True)) == (calls, calls_baked)


def test_a_head_of_guidance_costs_what_it_runs():
    """Not at t = 0 in closed form, and not from its end on: of 0, 0.076, 0.293 and 0.617 one is left."""
    guidance = BakedGuidance(3.0, stop=0.25, mean=(0.0,))
    assert parse_arm("dtm-4x1").head_calls(baked=True, guidance=guidance) == 1
    assert parse_arm("dtm-4x1").head_calls(baked=True, guidance=BakedGuidance(3.0)) == 4


def test_lists_keep_their_order():
    assert [arm.name for arm in parse_arms("dtm-4x2, euler-32,euler-8")] == ["dtm-4x2", "euler-32", "euler-8"]


@pytest.mark.parametrize("names", ["euler-8,euler-8", "euler-8,sway-8", "euler-8,euler-8@3.0", "noise-7,noise-7:0.1"])
def test_one_arm_under_two_names_is_refused(names):
    with pytest.raises(ValueError, match="`arms` must differ"):
        parse_arms(names)


def test_only_an_asked_for_scale_binds_a_baked_head():
    assert not parse_arm("dtm-4x2").sets_guidance
    assert parse_arm("dtm-4x2@3").sets_guidance and parse_arm("dtm-4x2@2").sets_guidance


def test_names_are_checked_without_torch():
    code = "import sys, dtm_hf.evaluation.arms; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
