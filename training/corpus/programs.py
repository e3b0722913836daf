"""The engines that are programs of their own: flite and eSpeak NG."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf

from dtm_hf.training.corpus.engine import MissingProgramError, check_voice

_TIMEOUT_SECONDS = 60


class ProgramEngine:
    """A synthesiser that is a program of its own, and writes a WAV file."""

    program: str
    package: str
    licence: str
    voices: tuple[str, ...]

    def __init__(self, model: str | None = None, partners: tuple[str, ...] = ()) -> None:
        if model is not None:
            raise ValueError(f"`model` must be left out for {self.program}, which has no weights, but got {model!r}")

    def require(self) -> None:
        self._path()

    def speak(self, text: str, voice: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        check_voice(self, voice)
        program = self._path()
        with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
            path = Path(folder) / "utterance.wav"
            command = [program, *self._arguments(text, voice, path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
            if done.returncode != 0 or not path.is_file():
                raise RuntimeError(
                    f"{self.program} could not speak {text!r} (exit status {done.returncode}): {done.stderr.strip()}"
                )
            waveform, rate = sf.read(path, dtype="float32", always_2d=True)
        return waveform.mean(axis=1), rate

    def about(self) -> dict[str, str]:
        # flite prints its version and leaves with status 1.
        done = subprocess.run([self._path(), "--version"], capture_output=True, text=True, check=False)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        # The path of the data folder says where it was built, not what it is.
        version = next((line for line in lines if "version:" in line or "eSpeak" in line), "unknown")
        version = version.removeprefix("version:").split("Data at")[0].strip()
        return {"version": version, "licence": self.licence, "package": self.package}

    def _arguments(self, text: str, voice: str, path: Path) -> list[str]:
        raise NotImplementedError

    def _path(self) -> str:
        path = shutil.which(self.program)
        if path is None:
            raise MissingProgramError(f"`{self.program}` is not installed: run `apt-get install {self.package}`")
        return path


class Flite(ProgramEngine):
    """Carnegie Mellon's small synthesiser with the voices that are built into it."""

    program = package = "flite"
    licence = "BSD-like free licence of Carnegie Mellon University, for the program and its built-in voices"
    voices = ("slt", "rms", "awb", "kal16")

    def _arguments(self, text: str, voice: str, path: Path) -> list[str]:
        return ["-voice", voice, "-t", text, "-o", str(path)]


class EspeakNg(ProgramEngine):
    """The formant synthesiser eSpeak NG; a voice is a language with `espeak-` before it."""

    program = package = "espeak-ng"
    licence = "GPL-3.0-or-later (covers the program, not the audio that it speaks)"
    voices = ("espeak-en-us", "espeak-en-gb")

    def _arguments(self, text: str, voice: str, path: Path) -> list[str]:
        return ["-v", voice.removeprefix("espeak-"), "-w", str(path), "--", text]
