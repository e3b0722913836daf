"""How the sound of speech compares with the recording of the same sentence: spectrum, movement and melody."""

import numpy as np

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import BenchmarkItem, Speech, resampled

# Hz. From a low male voice to an excited child.
_LOWEST_PITCH, _HIGHEST_PITCH = 60.0, 500.0
_PITCH_RATE = 16000
_PITCH_WINDOW, _PITCH_HOP = 1024, 256
# A tenth of a second of voice: below that a spread says nothing.
_MIN_VOICED_FRAMES = 7


class RecordingMels:
    """
    Log-mels of the recordings of a set, each computed once.

    Args:
        sampling_rate (`int`, defaults to 24000): Rate of the recordings in Hz.
        feature_extractor ([`F5FeatureExtractor`], *optional*): That of the mels to compare with; F5-TTS's by default.
    """

    def __init__(self, sampling_rate: int = 24000, feature_extractor=None):
        if feature_extractor is None:
            from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor

            feature_extractor = F5FeatureExtractor()
        self.sampling_rate = sampling_rate
        self.feature_extractor = feature_extractor
        self._mels: dict[str, np.ndarray] = {}

    def __call__(self, item: BenchmarkItem) -> np.ndarray | None:
        """Log-mel `(N, M)` of the recording of an item; `None` for an item without one."""
        if item.recording is None:
            return None
        if item.id not in self._mels:
            import torch

            waveform = resampled(item.recording, self.sampling_rate, self.feature_extractor.sampling_rate)
            self._mels[item.id] = self.feature_extractor.log_mel(torch.from_numpy(waveform)[None])[0].numpy()
        return self._mels[item.id]


class MelDistance:
    r"""
    Mean distance of the log-mels of speech and recording along their dynamic-time-warping path.

    The cost of two frames is the root mean square of their difference over the M bins, a path p goes from the first
    pair of frames to the last by steps (1, 1), (1, 0) and (0, 1), and p is the one of least total cost:

        d(i, j) = sqrt(mean_m (x_im - y_jm)^2),    distance = 1/|p| sum_(i,j in p) d(i, j)

    In natural logarithms of magnitudes: 1 is 8.7 dB. Loudness counts: the first coefficient is not taken out.

    Args:
        mels ([`RecordingMels`]): The recordings.
    """

    name = "mel"
    title = "mel distance"
    higher_is_better = False

    def __init__(self, mels: RecordingMels):
        with needs(EVAL_EXTRA):
            import librosa  # noqa: F401
        self.mels = mels

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        recording = self.mels(item)
        return None if recording is None else (warped_distance(speech.mel, recording), 1.0)


class FrameDifference:
    r"""
    How much the mel moves from frame to frame, over how much that of the recording does; 1 is best.

        e(x) = mean over n, m of (x_(n+1)m - x_nm)^2,    ratio = sum of e(speech) / sum of e(recording)

    A mean over frames, so that an utterance of another length can have the ratio 1. Averaged mels are below 1, mels
    with noise of their own above. A steady hiss in the waveform is below 1 too: it fills the gaps of speech.

    Args:
        mels ([`RecordingMels`]): The recordings.
    """

    name = "difference"
    title = "frame difference"
    higher_is_better = None

    def __init__(self, mels: RecordingMels):
        self.mels = mels

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        recording = self.mels(item)
        if recording is None or min(len(recording), len(speech.mel)) < 2:
            return None
        spoken, recorded = (float(np.square(np.diff(mel, axis=0)).mean()) for mel in (speech.mel, recording))
        # Digital silence is at the floor of the logarithm throughout.
        return (spoken, recorded) if recorded > 0 else None


class PitchSpread:
    """
    Standard deviation of the pitch in semitones, over that of the recording (ratio of sums); 1 is best.

    Flat, averaged melodies are below 1. Speech without a voice has no spread at all and counts as 0; an item whose
    recording has none has no figure.

    Args:
        sampling_rate (`int`, defaults to 24000): Rate of the recordings in Hz.
    """

    name = "pitch"
    title = "pitch spread"
    higher_is_better = None

    def __init__(self, sampling_rate: int = 24000):
        with needs(EVAL_EXTRA):
            import librosa  # noqa: F401
        self.sampling_rate = sampling_rate
        self._recorded: dict[str, float | None] = {}

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        if item.recording is None:
            return None
        if item.id not in self._recorded:
            self._recorded[item.id] = pitch_spread(item.recording, self.sampling_rate)
        recorded = self._recorded[item.id]
        return (pitch_spread(speech.waveform, speech.sampling_rate) or 0.0, recorded) if recorded else None


def warped_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Mean frame distance of two log-mels `(N, M)` and `(N', M)` along their path, as in [`MelDistance`]."""
    import librosa
    from scipy.spatial.distance import cdist

    costs = cdist(x, y) / np.sqrt(x.shape[1])
    totals, path = librosa.sequence.dtw(C=costs)
    return float(totals[-1, -1] / len(path))


def pitch_spread(waveform: np.ndarray, sampling_rate: int) -> float | None:
    """
    Standard deviation of [`pitch`] over the voiced frames of `(T,)` samples, in semitones; `None` where fewer than
    0.1 s are voiced, as in noise and silence.
    """
    semitones = pitch(waveform, sampling_rate)
    return None if len(semitones) < _MIN_VOICED_FRAMES else float(np.std(semitones))


def pitch(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """
    Pitch of the voiced frames of `(T,)` samples, in semitones above 1 Hz.

    Tracker and voicing: probabilistic YIN with its hidden Markov model (Mauch and Dixon 2014, librosa), which keeps
    octaves apart, at 16 kHz, in frames of 64 ms every 16 ms, in steps of 0.2 semitones.
    """
    import librosa

    waveform = resampled(waveform, sampling_rate, _PITCH_RATE)
    found, voiced, _ = librosa.pyin(
        waveform,
        fmin=_LOWEST_PITCH,
        fmax=_HIGHEST_PITCH,
        sr=_PITCH_RATE,
        frame_length=_PITCH_WINDOW,
        hop_length=_PITCH_HOP,
        resolution=0.2,
    )
    return 12 * np.log2(found[voiced])
