"""What the commands say to the terminal: progress, warnings and errors on stderr, results on stdout."""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from typer.core import TyperGroup

# Bound to sys.stderr at each print and not here, so that it follows a redirection.
stderr = Console(stderr=True)


# Arguments as the command line has them, by their names in Python.
_TYPED = {
    "text": "TEXT",
    "reference_text": "--reference-text",
    "reference_audio": "--reference-audio",
    "num_inference_steps": "--steps",
    "num_head_steps": "--head-steps",
    "guidance_scale": "--guidance",
    "guidance_end": "--guidance-end",
    "speed": "--speed",
    "temperature": "--temperature",
    "voice": "--voice",
    "duration_s": "--duration",
    "generator": "--seed",
    "checkpoint": "CHECKPOINT",
    "vocab_file": "VOCAB",
    "variant": "--variant",
    "use_ema": "--no-ema",
    "path_or_repo": "--vocoder",
}


def as_typed(message: str) -> str:
    """A message with the names of arguments as the user typed them."""
    return re.sub(r"`(\w+)`", lambda found: f"`{_TYPED.get(found[1], found[1])}`", message)


class ArgumentError(ValueError):
    """An argument of the command line that is refused before anything is loaded."""


class ReportingGroup(TyperGroup):
    """Ends a command that fails by its input with one red line; exit code 2 for a refused argument, else 1."""

    def invoke(self, ctx):
        # A benchmark's list has columns of these names.
        def said(message: str) -> str:
            return message if ctx.invoked_subcommand == "benchmark" else as_typed(message)

        with _own_warnings(ctx.params["traceback"], said):
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort):
                # RuntimeErrors by descent.
                raise
            # RuntimeError is what torch raises, of a GPU whose memory is full among the rest.
            except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
                if ctx.params["traceback"]:
                    raise
                # A pipe that its reader closed is no error to explain.
                if not isinstance(error, BrokenPipeError):
                    say_error(said(" ".join(str(error).split()) or type(error).__name__))
                raise typer.Exit(2 if isinstance(error, ArgumentError) else 1) from error


def say_error(message: str) -> None:
    """One red line."""
    stderr.print(f"Error: {message}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def say_note(message: str) -> None:
    """One yellow line."""
    stderr.print(f"Note: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


class _Notes(logging.Handler):
    """Shows the warnings that dtm-hf logs as notes, in the words of `said`."""

    def __init__(self, said: Callable[[str], str]):
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        say_note(self.said(record.getMessage()))


def quiet_libraries() -> None:
    """Keep off stderr what libraries say while they are imported; to be called before."""
    # An optional dependency of diffusers and transformers; it complains of an optional dependency of its own.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def _own_warnings(everything: bool, said: Callable[[str], str]) -> Iterator[None]:
    """Shows the warnings of dtm-hf as notes; those that libraries have for developers only with `everything`."""
    if everything:
        yield
        return
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def show(message, category, filename, lineno, file=None, line=None):
        if filename.startswith(package):
            say_note(said(str(message)))

    logger, notes = logging.getLogger("dtm_hf"), _Notes(said)
    logger.addHandler(notes)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(notes)
