"""One utterance: text to a trimmed, level waveform, spoken by flite or espeak-ng."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

SAMPLE_RATE = 24_000
TARGET_RMS = 0.1
DITHER_STD = 1e-4
"""White noise of -80 dBFS: digital silence would sit at the floor of a log-mel, where no recording is."""

_EDGE_SECONDS = 0.025
_WINDOW_SECONDS = 0.010
_SILENCE_DB = -45.0
_MAX_PEAK = 0.98
_TIMEOUT_SECONDS = 60

# Programs and the Debian packages that hold them.
PROGRAMS = {"flite": "flite", "espeak-ng": "espeak-ng"}

# Speaker name -> (program, the program's own name of the voice).
VOICES = {
    "slt": ("flite", "slt"),
    "rms": ("flite", "rms"),
    "awb": ("flite", "awb"),
    "kal16": ("flite", "kal16"),
    "espeak-en-us": ("espeak-ng", "en-us"),
}


class MissingProgramError(RuntimeError):
    """A speech synthesiser is not installed."""


def require_program(name: str) -> str:
    """The path of a synthesiser's executable.

    Raises:
        MissingProgramError: if it is not installed; the message names the Debian package.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingProgramError(f"`{name}` is not installed: run `apt-get install {PROGRAMS[name]}`")
    return path


def check_voice(voice: str) -> None:
    """
    Raises:
        ValueError: if `voice` is unknown.
        MissingProgramError: if the program that speaks it is not installed.
    """
    if voice not in VOICES:
        raise ValueError(f"`voice` must be one of {tuple(VOICES)}, but got {voice!r}")
    require_program(VOICES[voice][0])


def synthesize(text: str, voice: str, path: Path) -> None:
    """Speak `text` into the WAV file `path`, at the program's own rate and level.

    Raises:
        ValueError: if `voice` is unknown.
        MissingProgramError: if the program is not installed.
        RuntimeError: if the program fails; the message holds what it said.
    """
    check_voice(voice)
    name, program_voice = VOICES[voice]
    program = require_program(name)
    if name == "flite":
        command = [program, "-voice", program_voice, "-t", text, "-o", str(path)]
    else:
        command = [program, "-v", program_voice, "-w", str(path), "--", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0 or not path.is_file():
        raise RuntimeError(f"{name} could not speak {text!r} (exit status {done.returncode}): {done.stderr.strip()}")


def trim_silence(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Cut what is more than 45 dB below the loudest 10 ms at both ends, but for 25 ms.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): in full scale +-1.

    Raises:
        ValueError: if there is no sound in `waveform`.
    """
    window = max(1, round(_WINDOW_SECONDS * sample_rate))
    energy = np.convolve(waveform.astype(np.float64) ** 2, np.ones(window) / window, "same")
    if len(waveform) == 0 or energy.max() <= 1e-10:
        raise ValueError(f"`waveform` holds no sound: {len(waveform)} samples, all silent")
    loud = np.flatnonzero(energy > energy.max() * 10 ** (_SILENCE_DB / 10))
    edge = round(_EDGE_SECONDS * sample_rate)
    return waveform[max(0, loud[0] - edge) : loud[-1] + 1 + edge]


def render(text: str, voice: str, directory: Path, rng: np.random.Generator) -> np.ndarray:
    """Speak `text`: 24 kHz mono, ends trimmed, RMS 0.1 (less where that would clip), dithered.

    Args:
        voice (`str`): a key of `VOICES`.
        directory (`Path`): where the program's file may lie for a moment.
        rng (`np.random.Generator`): draws the dither.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32 within +-1.
    """
    path = Path(directory) / "utterance.wav"
    synthesize(text, voice, path)
    waveform, rate = sf.read(path, dtype="float32", always_2d=True)
    path.unlink()
    waveform = soxr.resample(waveform.mean(axis=1), rate, SAMPLE_RATE)
    waveform = trim_silence(waveform)
    gain = min(TARGET_RMS / np.sqrt(np.mean(waveform**2)), _MAX_PEAK / np.abs(waveform).max())
    return (waveform * gain + rng.normal(0.0, DITHER_STD, len(waveform))).astype(np.float32)
