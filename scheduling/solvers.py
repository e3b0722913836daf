"""The solvers of the inner flow by name, without torch: a configuration is checked before anything heavy is loaded."""

HEAD_SOLVERS = ("midpoint", "euler", "heun")

# Each takes a pass of the backbone; the schedules, and a head's modulations for every pair, are made beforehand.
MAX_STEPS = 1000
_MAX_HEAD_CALLS = 10_000


def check_num_steps(num_inference_steps: int, num_head_steps: int) -> None:
    """
    Raises:
        ValueError: for what is no number of global steps, or of head calls in each of them, or more than can be meant.
    """
    for name, count, least in (
        ("num_inference_steps", num_inference_steps, 1),
        ("num_head_steps", num_head_steps, 0),
    ):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, but got {count!r}.")
        if count > MAX_STEPS:
            raise ValueError(f"`{name}` must be at most {MAX_STEPS}, but got {count}.")
    if num_inference_steps * num_head_steps > _MAX_HEAD_CALLS:
        raise ValueError(
            f"`num_head_steps` must be at most {_MAX_HEAD_CALLS // num_inference_steps} with `num_inference_steps` "
            f"{num_inference_steps}, but got {num_head_steps}."
        )


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


def second_node(head_solver: str, interval: int, num_intervals: int) -> float:
    """Where in an interval, in (0, 1], a two-call solver takes its second slope."""
    if head_solver == "midpoint":
        return 0.5
    return 1.0 if interval < num_intervals - 1 else 2 / 3
