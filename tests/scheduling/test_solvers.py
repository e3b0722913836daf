"""Which solver takes a number of head calls, and what asks for it without torch."""

import subprocess
import sys

import pytest

from dtm_hf.scheduling.solvers import HEAD_SOLVERS, effective_solver


@pytest.mark.parametrize(
    ("solver", "calls", "effective"),
    [("midpoint", 2, "midpoint"), ("heun", 4, "heun"), ("euler", 3, "euler"), ("midpoint", 0, "midpoint")],
)
def test_calls_are_taken_as_asked_for(solver, calls, effective):
    assert effective_solver(solver, calls) == effective


@pytest.mark.parametrize("solver", HEAD_SOLVERS)
def test_one_call_is_eulers(solver):
    assert effective_solver(solver, 1) == "euler"


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_odd_calls_are_refused(solver):
    with pytest.raises(ValueError, match=f"`num_head_steps` must be even for `head_solver` '{solver}'.*got 3"):
        effective_solver(solver, 3)


def test_torch_is_not_needed():
    code = "import sys, dtm_hf.scheduling.solvers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
