"""The solvers of the inner flow by name, without torch: a configuration is checked before anything heavy is loaded."""

HEAD_SOLVERS = ("midpoint", "euler", "heun")


def effective_solver(head_solver: str, num_head_steps: int) -> str:
    """
    What a number of head calls is taken with: a single call is Euler's one step with any solver.

    Raises:
        ValueError: for an odd number of calls above 1 with a solver that takes two an interval.
    """
    if num_head_steps == 1:
        return "euler"
    if head_solver != "euler" and num_head_steps % 2:
        raise ValueError(
            f"`num_head_steps` must be even for `head_solver` {head_solver!r}, which takes two head calls an "
            f"interval, or 1, but got {num_head_steps}."
        )
    return head_solver
