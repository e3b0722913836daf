"""
Speak one sentence in several ways, and see what each costs.

    python examples/speak_and_compare.py
    python examples/speak_and_compare.py --model org/dtm-f5 --reference-audio my.wav --reference-text "What is said."

Without a model, the embedded one and its first voice. The folder `out` holds a WAV a way and a picture of all mels.
"""

import argparse
import time
from pathlib import Path

import soundfile
import torch

from dtm_hf import DTMPipeline
from dtm_hf.commands.console import ArgumentError
from dtm_hf.commands.models import EMBEDDED, choose_reference
from dtm_hf.pictures import save_mel_picture

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=str(EMBEDDED))
parser.add_argument("--reference-audio", type=Path, help="recording to speak like; by default a packaged one")
parser.add_argument("--reference-text", help="what is said in it")
parser.add_argument("--text", default="The train leaves at half past nine.")
parser.add_argument("--out", type=Path, default=Path("out"))
options = parser.parse_args()
try:
    voice = choose_reference(options.model, options.reference_audio, options.reference_text, None)
except ArgumentError as error:
    parser.error(str(error))
options.out.mkdir(parents=True, exist_ok=True)

pipe = DTMPipeline.from_pretrained(options.model)
pipe.set_progress_bar_config(disable=True)

# `num_head_steps=0` is F5-TTS's own sampling: no head, and two branches of guidance a step.
ways = {"F5-TTS, 16 steps": (16, 0), "F5-TTS, 4 steps": (4, 0)}
if pipe.head is not None:
    ways |= {"head, 4 steps": (4, 1), "head, 2 steps": (2, 1)}

mels = []
for name, (steps, head_steps) in ways.items():
    started = time.perf_counter()
    output = pipe(
        options.text,
        reference_audio=str(voice.audio),
        reference_text=voice.text,
        num_inference_steps=steps,
        num_head_steps=head_steps,
        # The same noise for all.
        generator=torch.Generator().manual_seed(0),
    )
    took, speech = time.perf_counter() - started, output.audios[0]
    path = options.out / f"{name.replace(', ', '-').replace(' ', '-')}.wav"
    soundfile.write(path, speech, output.sampling_rate)
    mels.append(pipe.feature_extractor.log_mel(torch.from_numpy(speech)[None])[0])
    print(f"{name}: {len(speech) / output.sampling_rate:.2f} s of speech in {took:.2f} s -> {path}")
save_mel_picture(mels, options.out / "mels.png", titles=list(ways))
