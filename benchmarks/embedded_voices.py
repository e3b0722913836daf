"""
The packaged voices of the embedded model: `reference-NAME.wav` and `.txt` in the folder of a pipeline.

    python benchmarks/embedded_voices.py MODEL KOKORO CORPUS RECOGNIZER

Four say a sentence by Kokoro-82M (a folder, or its name on the Hub). The fifth is a real woman, of whom no recording
is packaged: of several answers of MODEL's student to the first prompt in the test part of CORPUS, of those with the
fewest words wrong to RECOGNIZER, it is the one that is most like that prompt.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from dtm_hf import DTMPipeline
from dtm_hf.evaluation.metric import Speech
from dtm_hf.evaluation.metrics.speaker import SpeakerSimilarity
from dtm_hf.evaluation.metrics.words import word_error
from dtm_hf.evaluation.recognizers import load_recognizer
from dtm_hf.evaluation.sets import load_set
from dtm_hf.training.corpus.kokoro import Kokoro

SPOKEN = {
    "emma": ("bf_emma", "She opened the window, and the smell of fresh bread filled the kitchen."),
    "george": ("bm_george", "There is nothing quite like a good book on a quiet winter evening."),
    "heart": ("af_heart", "The children were playing by the river when the rain began to fall."),
    "michael": ("am_michael", "We walked along the beach and watched the boats come home at last."),
}
CLONED = ("kathleen", "Every voice has a story to tell, if someone takes the time to listen.")
TAKES = 16
# Room to the largest sample, for players that interpolate.
PEAK = 0.9


def write(model: Path, name: str, text: str, wave: np.ndarray, rate: int) -> None:
    soundfile.write(model / f"reference-{name}.wav", wave * (PEAK / np.abs(wave).max()), rate, subtype="PCM_16")
    (model / f"reference-{name}.txt").write_text(text + "\n", encoding="utf-8")


def clone(model: Path, corpus: str, recognizer: str, text: str) -> tuple[np.ndarray, int]:
    (item,) = load_set(corpus, 1, "test").items
    pipe = DTMPipeline.from_pretrained(model)
    pipe.load_student(model / "student")
    pipe.set_progress_bar_config(disable=True)
    rate, likeness, ears, takes = pipe.vocoder.sampling_rate, SpeakerSimilarity(), load_recognizer(recognizer), []
    for seed in range(TAKES):
        generator = torch.Generator().manual_seed(seed)
        wave = pipe(text, (item.reference_audio, rate), item.reference_text, generator=generator).audios[0]
        error, _ = word_error(ears, text, wave, rate)
        takes.append((-error, likeness(Speech(wave, rate, np.empty((0, 0))), item)[0], wave))
    return max(takes, key=lambda take: take[:2])[-1], rate


def main(model: Path, kokoro: str, corpus: str, recognizer: str) -> None:
    engine = Kokoro(kokoro)
    for name, (voice, text) in SPOKEN.items():
        write(model, name, text, *engine.speak(text, voice, np.random.default_rng(0)))
    name, text = CLONED
    write(model, name, text, *clone(model, corpus, recognizer, text))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
