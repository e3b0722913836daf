"""Checkpoints as repositories on the Hub, pushed while training goes on."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, disable_progress_bars, validate_repo_id

from dtm_hf.files import folder_written_aside
from dtm_hf.pipelines.repositories import save_with_card, upload_with_card
from dtm_hf.training.arguments import TrainingConfig
from dtm_hf.training.components import Components, data_description


@dataclass(frozen=True)
class _Snapshot:
    """A complete repository on disk, as the weights were after `step` optimizer steps."""

    step: int
    folder: Path


class Publisher:
    """
    Pushes a run to `repo_id` on the Hub: the whole pipeline, or the head alone where its base model is on the Hub.

    [`~Publisher.submit`] writes the repository into `output_dir/hub` and returns; a thread uploads it, one at a time.
    While one is on its way the newest of those that wait replaces the others. A push that fails stops nothing: it is
    reported, the next one takes its place, and [`~Publisher.close`] tries the last one once more. What is pushed is
    removed from the disk, what is not stays.

    Only the main process needs one of these.

    Args:
        repo_id (`str`): `org/name`; made, under the account's default visibility, if it does not exist.
        config ([`TrainingConfig`]): the run; gives the folder and what the card says of the data.
        components ([`Components`]): what is trained.
        say (`Callable`, defaults to `print`): gets one line for each push, from the thread.

    Raises:
        ValueError: if `repo_id` is no `org/name`, or there is no token to push with.
    """

    def __init__(
        self, repo_id: str, config: TrainingConfig, components: Components, say: Callable[[str], None] = print
    ):
        _check(repo_id)
        self.repo_id, self.config, self.components, self.say = repo_id, config, components, say
        self.folder = Path(config.optimization.output_dir) / "hub"
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

    def submit(self, step: int, hours: float, results: dict[str, float] | None = None) -> None:
        """
        Take a snapshot of the weights as they are now, to be pushed with the step in the commit message.

        Args:
            step (`int`): optimizer steps taken.
            hours (`float`): hours of speech trained on, repeats counted.
            results (`dict`, *optional*): what was measured at this step, `{metric: value}`.
        """
        if step == self._submitted:
            return
        self._submitted = step
        snapshot = _Snapshot(step, self.folder / f"step-{step:08d}")
        try:
            with folder_written_aside(snapshot.folder) as aside:
                table = record_training(self.components, self.config, step, hours, results)
                save_with_card(self._repository(), aside, self.repo_id, results=table)
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
            f"{self.config.optimization.output_dir} holds the result."
        )
        return False

    def _repository(self):
        head = self.components.head
        return head if head is not None and head.config.base_model is not None else self.components.pipeline()

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


def record_training(
    components: Components,
    config: TrainingConfig,
    step: int,
    hours: float,
    results: dict[str, float] | None = None,
) -> dict | None:
    """
    Write into the configuration of what is trained how long it was trained and what was measured, from where a model
    card takes it.

    Returns:
        `dict`, *optional*: the results as a card shows them, `{arm: {metric: value}}`.
    """
    training_data = f"{data_description(config)}; {step:,} steps, {hours:,.1f} hours of speech with repeats"
    table = None
    if results:
        figures = {name.replace("_", " "): f"{value:.4g}" for name, value in results.items()}
        table = {f"averaged weights, step {step:,}": figures}
    if components.head is not None:
        components.head.config.training_data = training_data
        # Those of the head it was initialised from no longer hold.
        components.head.config.results = table
    else:
        components.backbone.register_to_config(training_data=training_data)
    return table


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
