"""Signals that ask a run to end: it finishes its step and writes a checkpoint first."""

import os
import signal
import threading
import time

from accelerate import Accelerator

from dtm_hf.training.loop.ranks import anywhere

#: Exit status of a run that a signal has ended: "temporary failure, try again" (sysexits.h).
EXIT_STOPPED = getattr(os, "EX_TEMPFAIL", 75)
# Those of a scheduler that preempts, of a container that is stopped, and of the keyboard.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
# Launchers pass Ctrl-C on to processes that the terminal has told already: a second one is a user's from then on.
_INSISTING_SECONDS = 3.0


class StopRequest:
    """
    While entered, notes SIGTERM, SIGINT and SIGUSR1 in the place of what they do otherwise. A second SIGINT, some
    seconds after the first, interrupts at once.
    """

    def __init__(self):
        #: The first signal that this process got.
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._before: dict = {}

    def __enter__(self) -> "StopRequest":
        # Python lets no other thread do it; a run in one is ended by whoever started it.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __str__(self) -> str:
        return "a signal to another process" if self.received is None else self.received.name

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process of the run got one; every process calls this."""
        return anywhere(accelerator, self.received is not None)

    def _note(self, number: int, _frame) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _INSISTING_SECONDS:
            raise KeyboardInterrupt
