"""Pictures of fixed prompts while training runs: from the same noise every time, so that only the weights differ."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dtm_hf.files import folder_written_aside
from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.objectives.tdm import TDM


class ImageSamples:
    """
    Draws the prompts with the student's current weights into `folder/step-00001000`: a PNG for each prompt and number
    of steps, and `info.json`. `folder/teacher` holds the teacher's pictures from the same noise.

    No global random number is drawn. Only the main process needs one of these.

    Args:
        networks ([`LatentNetworks`]): on their device.
        tdm ([`TDM`]): the student's steps.
        prompts (`list[str]`): what to draw.
        folder (`str` or `Path`): where the samples go.
        teacher_steps (`int`, defaults to 32): of the teacher.
        seed (`int`, defaults to 0): of the noise.
    """

    def __init__(
        self,
        networks: LatentNetworks,
        tdm: TDM,
        prompts: list[str],
        folder: str | Path,
        *,
        teacher_steps: int = 32,
        seed: int = 0,
    ):
        self.networks, self.tdm, self.folder = networks, tdm, Path(folder)
        self.names = {_name(number, prompt): prompt for number, prompt in enumerate(prompts, 1)}
        self.seed, self.teacher_steps = seed, teacher_steps
        # On the CPU: the noise is then the same on every device.
        self.noise = networks.model.noise(len(prompts), torch.Generator().manual_seed(seed))
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        teacher = networks.teacher_samples(prompts, self.noise, teacher_steps)
        shutil.rmtree(self.folder / "teacher", ignore_errors=True)
        with folder_written_aside(self.folder / "teacher") as aside:
            self._write(aside, dict(zip(self.names, teacher, strict=True)))

    def write(self, step: int, trackers: Sequence = ()) -> Path:
        """
        Draw all prompts with the weights as they are now, and hand the pictures to trackers too. Samples of this step
        that an interrupted run wrote are replaced.

        Args:
            step (`int`): optimizer steps taken.
            trackers (`list` of `accelerate.tracking.GeneralTracker`): TensorBoard and W&B get the pictures.

        Returns:
            `Path`: the folder, complete.
        """
        folder, prompts = self.folder / f"step-{step:08d}", list(self.names.values())
        latents = {}
        for count in sorted(set(self.tdm.step_counts)):
            rows = self.networks.student_samples(self.tdm, prompts, self.noise, count)
            latents |= {f"{name}-{count}-steps": row for name, row in zip(self.names, rows, strict=True)}
        shutil.rmtree(folder, ignore_errors=True)
        with folder_written_aside(folder) as aside:
            pictures = self._write(aside, latents)
            info = {
                "step": step,
                "seed": self.seed,
                "step_counts": sorted(set(self.tdm.step_counts)),
                "teacher_steps": self.teacher_steps,
                "teacher_guidance_scale": self.networks.guidance_scale,
                "prompts": self.names,
                # Without a picture: the network has diverged, and there is nothing to see.
                "not_finite": sorted(latents.keys() - pictures.keys()),
            }
            (aside / "info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        for tracker in trackers:
            _track(tracker, step, pictures)
        return folder

    def _write(self, folder: Path, latents: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """PNGs of the latents that are finite; pictures `(R, R, 3)` of uint8 by name."""
        from PIL import Image

        pictures = {}
        for name, row in latents.items():
            if row.isfinite().all():
                decoded = self.networks.model.decode(row[None])[0].float().cpu()
                pictures[name] = ((decoded.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
                Image.fromarray(pictures[name]).save(folder / f"{name}.png")
        return pictures


def read_image_prompts(lines: Sequence[str] = (), file: str | Path | None = None) -> list[str]:
    """
    Prompts of a file, one a line, then those given. Empty lines and lines that begin with `#` are ignored.

    Raises:
        ValueError: for a file that is none, is not in UTF-8, or holds no prompt.
    """
    prompts = []
    if file is not None:
        try:
            prompts = _prompts(Path(file).read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`sample_prompts_file` must be a file of prompts, but got {str(file)!r}: {error}"
            ) from error
        if not prompts:
            raise ValueError(f"`sample_prompts_file` must hold prompts, but {str(file)!r} has none.")
    return prompts + _prompts(lines)


def _prompts(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _name(number: int, prompt: str) -> str:
    """File name that tells the prompts apart: `01-a-red-square`; the number serves any alphabet."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return f"{number:02d}-{slug[:40]}".strip("-")


def _track(tracker, step: int, pictures: dict[str, np.ndarray]) -> None:
    if tracker.name == "tensorboard":
        for name, picture in pictures.items():
            tracker.writer.add_image(f"samples/{name}", picture, step, dataformats="HWC")
        tracker.writer.flush()
    elif tracker.name == "wandb":
        import wandb

        tracker.log({f"samples/{name}": wandb.Image(picture) for name, picture in pictures.items()}, step=step)
