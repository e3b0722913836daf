"""How natural speech sounds to a model of listeners."""

import contextlib
import io

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import BenchmarkItem, Speech, resampled

_RATE = 16000


class PredictedMOS:
    """
    Mean opinion score from 1 to 5 as DistillMOS predicts it (its weights are in the package), on the CPU.

    It orders the arms of one set; it does not stand for a listening test.
    """

    name = "mos"
    title = "predicted MOS"
    higher_is_better = True

    def __init__(self):
        with needs(EVAL_EXTRA):
            from distillmos import ConvTransformerSQAModel
        # It prints where its weights came from.
        with contextlib.redirect_stdout(io.StringIO()):
            self._model = ConvTransformerSQAModel().eval()

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        import torch

        waveform = torch.from_numpy(resampled(speech.waveform, speech.sampling_rate, _RATE))
        with torch.inference_mode():
            return float(self._model(waveform[None])), 1.0
