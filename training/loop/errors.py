"""What ends a run with a sentence in the place of a traceback."""


class RunError(RuntimeError):
    """A run cannot go on, and says why; its checkpoints are intact."""


class CheckpointError(RunError):
    """A checkpoint could not be written, or none can be gone on from."""


class DivergenceError(RunError):
    """Losses, gradients or weights are not finite."""
