"""Checkpoints as repositories on the Hub, pushed while training goes on."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, disable_progress_bars, validate_repo_id

from dtm_hf.files import folder_written_aside
from dtm_hf.hub import upload_with_card
from dtm_hf.training.loop.task import Task


@dataclass(frozen=True)
class _Snapshot:
    """A complete repository on disk, as the weights were after `step` optimizer steps."""

    step: int
    folder: Path


class Publisher:
    """
    Pushes a run to `repo_id` on the Hub: what [`Task.save_repository`] writes.

    [`~Publisher.submit`] writes the repository into `output_dir/hub` and returns; a thread uploads it, one at a time.
    While one is on its way the newest of those that wait replaces the others. A push that fails stops nothing: it is
    reported, the next one takes its place, and [`~Publisher.close`] tries the last one once more. What is pushed is
    removed from the disk, what is not stays.

    Only the main process needs one of these.

    Args:
        repo_id (`str`): `org/name`; made, under the account's default visibility, if it does not exist.
        output_dir (`str` or `Path`): of the run.
        task ([`Task`]): what is trained.
        say (`Callable`, defaults to `print`): gets one line for each push, from the thread.

    Raises:
        ValueError: if `repo_id` is no `org/name`, or there is no token to push with.
    """

    def __init__(self, repo_id: str, output_dir: str | Path, task: Task, say: Callable[[str], None] = print):
        _check(repo_id)
        self.repo_id, self.output_dir, self.task, self.say = repo_id, Path(output_dir), task, say
        self.folder = self.output_dir / "hub"
        # Of a run that was killed: the next checkpoint is newer.
        shutil.rmtree(self.folder, ignore_errors=True)
        # They would draw over the progress of the training.
        disable_progress_bars()
        self._changed = threading.Condition()
        self._waiting: _Snapshot | None = None
        self._failed: _Snapshot | None = None
        self._submitted: int | None = None
        self._pushed: int | None = None
        self._problem = ""
        self._closing = False
        # A daemon: a run that dies of something else must not wait for the network.
        self._thread = threading.Thread(target=self._push_all, name="publisher", daemon=True)
        self._thread.start()

    def submit(self, step: int, units: int, results: dict[str, float] | None = None) -> None:
        """
        Take a snapshot of the weights as they are now, to be pushed with the step in the commit message.

        Args:
            step (`int`): optimizer steps taken.
            units (`int`): trained on, repeats counted: the frames of speech, say.
            results (`dict`, *optional*): what was measured at this step, `{metric: value}`.
        """
        if step == self._submitted:
            return
        self._submitted = step
        snapshot = _Snapshot(step, self.folder / f"step-{step:08d}")
        try:
            with folder_written_aside(snapshot.folder) as aside:
                self.task.save_repository(aside, self.repo_id, step, units, results)
        except Exception as error:
            self.say(f"Not pushed to {self.repo_id}, but training goes on: step {step} was not written: {error}")
            return
        with self._changed:
            replaced, self._waiting = self._waiting, snapshot
            self._changed.notify()
        _remove(replaced)

    def close(self) -> bool:
        """Wait for the last push, and try it once more if it failed. Returns whether the newest weights are there."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._failed is not None:
            self._push(self._failed)
        if self._pushed == self._submitted:
            return True
        rest = f" {self._problem}; try `hf upload {self.repo_id} {self._failed.folder}`." if self._failed else ""
        self.say(
            f"The weights of step {self._submitted} are NOT in {self.repo_id} on the Hub.{rest} Nothing else is lost: "
            f"{self.output_dir} holds the result."
        )
        return False

    def _push_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                snapshot, self._waiting = self._waiting, None
            if snapshot is None:
                return
            self._push(snapshot)

    def _push(self, snapshot: _Snapshot) -> None:
        try:
            upload_with_card(snapshot.folder, self.repo_id, f"Training step {snapshot.step}")
        except Exception as error:
            older, self._failed = self._failed, snapshot
            # The Hub's messages have several lines.
            self._problem = f"Step {snapshot.step} failed with {type(error).__name__}: {' '.join(str(error).split())}"
            message = f"Not pushed to {self.repo_id}, but training goes on. {self._problem}"
        else:
            older, self._failed, self._pushed = self._failed, None, snapshot.step
            _remove(snapshot)
            message = f"Pushed step {snapshot.step} to {self.repo_id}."
        if older != snapshot:
            _remove(older)
        self.say(message)


def _check(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        fits = repo_id.count("/") == 1
    except HFValidationError:
        fits = False
    if not fits:
        raise ValueError(f"`push_to_hub` must be `org/name`, but got {repo_id!r}.")
    if get_token() is None:
        raise ValueError("`push_to_hub` needs a token: log in with `hf auth login`, or set `HF_TOKEN`.")


def _remove(snapshot: _Snapshot | None) -> None:
    if snapshot is not None:
        shutil.rmtree(snapshot.folder, ignore_errors=True)
