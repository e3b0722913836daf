"""Speech from fixed prompts while training runs: the same noise every time, so that only the weights differ."""

import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from matplotlib.image import imread

from dtm_hf.files import folder_written_aside
from dtm_hf.training.speech.prompts import Prompt, SpokenPrompt, ValidationRow, find_recordings
from dtm_hf.training.speech.speaker import Speaker


@dataclass
class _Sound:
    """A waveform `(T,)` with its picture, as a tracker gets them."""

    waveform: np.ndarray
    picture: Path


class SpeechSamples:
    """
    Speaks the prompts with the current weights, into `folder/step-00001000`: for each prompt a WAV and a
    picture of its mel, above that of the true recording if there is one, and `info.json` with the settings.
    `folder/ground-truth` holds the true recordings.

    Everything that could fail later is tried on construction: each prompt is spoken in one step. The state of the
    random number generators is left as it was found. Only the main process needs one of these.

    Args:
        speaker ([`Speaker`]): speaks with the networks that are trained.
        prompts (`list` of [`Prompt`]): what to say.
        rows (iterable of [`ValidationRow`]): where their speakers are found.
        folder (`str` or `Path`): where the samples go.
        seed (`int`, defaults to 0): seed of the noise, which each prompt draws anew.

    Raises:
        ValueError: for a prompt that cannot be spoken, with the place where it was given.
    """

    def __init__(
        self,
        speaker: Speaker,
        prompts: list[Prompt],
        rows: Iterable[ValidationRow],
        folder: str | Path,
        seed: int = 0,
    ):
        self.speaker, self.folder, self.seed = speaker, Path(folder), seed
        found = find_recordings(prompts, rows, speaker.reference_rate, speaker.needs_reference)
        self.prompts = {_name(number, prompt): prompt for number, prompt in enumerate(found, 1)}
        for prompt in found:
            try:
                self._speak(prompt, briefly=True)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{prompt.source}: {error}") from error
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._truths = self._write_truths()

    def write(self, step: int, trackers: Sequence = ()) -> Path:
        """
        Speak all prompts with the weights as they are now, in evaluation mode, and hand the result to trackers too.

        Samples of this step that an interrupted run wrote are replaced.

        Args:
            step (`int`): optimizer steps taken.
            trackers (`list` of `accelerate.tracking.GeneralTracker`): TensorBoard and W&B get sound and pictures.

        Returns:
            `Path`: the folder, complete.
        """
        folder = self.folder / f"step-{step:08d}"
        spoken = {name: self._speak(prompt) for name, prompt in self.prompts.items()}
        shutil.rmtree(folder, ignore_errors=True)
        with folder_written_aside(folder) as aside:
            for name, waveform in spoken.items():
                if np.isfinite(waveform).all():
                    self._write_sound(aside, name, waveform, self.prompts[name].truth)
            (aside / "info.json").write_text(json.dumps(self._info(step, spoken), indent=2) + "\n", encoding="utf-8")
        sounds = {
            f"samples/{name}": _Sound(waveform, folder / f"{name}.png")
            for name, waveform in spoken.items()
            if np.isfinite(waveform).all()
        }
        # Once is enough for what does not change.
        truths, self._truths = self._truths, {}
        for tracker in trackers:
            _track(tracker, step, truths | sounds, self.speaker.sampling_rate)
        return folder

    def _speak(self, prompt: SpokenPrompt, briefly: bool = False) -> np.ndarray:
        """One prompt as `(T,)`. By itself, so that many prompts need no more memory than one."""
        with _random_state_kept(self.speaker.device):
            # On the CPU: the noise is then the same on every device.
            generator = torch.Generator().manual_seed(self.seed)
            waveform = self.speaker.speak(prompt, generator, briefly)
        return _in_range(waveform)

    def _write_truths(self) -> dict[str, _Sound]:
        truths = {name: _in_range(prompt.truth) for name, prompt in self.prompts.items() if prompt.truth is not None}
        folder = self.folder / "ground-truth"
        shutil.rmtree(folder, ignore_errors=True)
        if not truths:
            return {}
        with folder_written_aside(folder) as aside:
            for name, waveform in truths.items():
                self._write_sound(aside, name, waveform)
        return {f"ground_truth/{name}": _Sound(samples, folder / f"{name}.png") for name, samples in truths.items()}

    def _write_sound(self, folder: Path, name: str, waveform: np.ndarray, truth: np.ndarray | None = None) -> None:
        prompt, rate = self.prompts[name], self.speaker.sampling_rate
        soundfile.write(folder / f"{name}.wav", waveform, rate, format="WAV", subtype="PCM_16")
        titles = [f"{prompt.speaker}: {prompt.text}", "ground truth"]
        waveforms = [waveform] if truth is None else [waveform, truth]
        self.speaker.save_picture(waveforms, folder / f"{name}.png", titles[: len(waveforms)])

    def _info(self, step: int, spoken: dict[str, np.ndarray]) -> dict:
        return {
            "step": step,
            "seed": self.seed,
            **self.speaker.settings(),
            "samples": [
                {
                    "name": name,
                    "speaker": prompt.speaker,
                    "text": prompt.text,
                    "reference_text": prompt.reference_text,
                    "seconds": len(spoken[name]) / self.speaker.sampling_rate,
                    "ground_truth": prompt.truth is not None,
                    # Without: the network has diverged, and there is nothing to hear.
                    "finite": bool(np.isfinite(spoken[name]).all()),
                }
                for name, prompt in self.prompts.items()
            ],
        }


def _name(number: int, prompt: SpokenPrompt) -> str:
    """File name that tells the prompts apart: `01-slt-the-train-leaves`; the number serves any alphabet."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{prompt.speaker} {prompt.text}".lower()).strip("-")
    return f"{number:02d}-{slug[:40]}".strip("-")


def _in_range(waveform: np.ndarray) -> np.ndarray:
    """Float32, lowered where 16 bits would cut it off."""
    return np.asarray(waveform / max(1.0, float(np.abs(waveform).max())), dtype=np.float32)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Whatever draws inside, training goes on with the draws it would have made."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _track(tracker, step: int, sounds: dict[str, _Sound], rate: int) -> None:
    if tracker.name == "tensorboard":
        for name, sound in sounds.items():
            tracker.writer.add_audio(name, torch.from_numpy(sound.waveform), step, sample_rate=rate)
            tracker.writer.add_image(f"{name}/mel", imread(sound.picture)[..., :3], step, dataformats="HWC")
        tracker.writer.flush()
    elif tracker.name == "wandb":
        import wandb

        values = {}
        for name, sound in sounds.items():
            values[name] = wandb.Audio(sound.waveform, sample_rate=rate)
            values[f"{name}/mel"] = wandb.Image(str(sound.picture))
        tracker.log(values, step=step)
