"""
Speak one sentence in several ways, and see what each costs.

    python examples/speak_and_compare.py [--model org/dtm-f5 --audio voice.wav --said "What is said in it."]

Without a model, the embedded one and its first voice. The folder `out` holds a WAV a way and a picture of all mels.
"""

import argparse
import time
from pathlib import Path

import soundfile
import torch

from dtm_hf import DTMPipeline
from dtm_hf.commands.models import EMBEDDED
from dtm_hf.frontend.voices import packaged_voices
from dtm_hf.pictures import save_mel_picture

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=str(EMBEDDED))
parser.add_argument("--audio")
parser.add_argument("--said")
parser.add_argument("--text", default="The train leaves at half past nine.")
parser.add_argument("--out", type=Path, default=Path("out"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

voice = next(iter(packaged_voices(options.model).values()), None)
audio, said = options.audio or str(voice.audio), options.said or voice.text
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
        reference_audio=audio,
        reference_text=said,
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
