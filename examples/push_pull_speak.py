"""
Share a pipeline on the Hub, and speak with what others get of it.

    hf auth login
    python examples/push_pull_speak.py org/my-dtm [--model runs/my-pipeline] [--out speech.wav]

Without a model, the embedded one is pushed.
"""

import argparse

import soundfile
import torch
from diffusers import DiffusionPipeline

from dtm_hf import DTMPipeline
from dtm_hf.commands.models import EMBEDDED
from dtm_hf.frontend.voices import packaged_voices

parser = argparse.ArgumentParser()
parser.add_argument("repository", help="org/name")
parser.add_argument("--model", default=str(EMBEDDED))
parser.add_argument("--text", default="The train leaves at half past nine.")
parser.add_argument("--out", default="speech.wav")
options = parser.parse_args()

DTMPipeline.from_pretrained(options.model).push_to_hub(options.repository)

# After `import dtm_hf`, diffusers knows the class, and no `trust_remote_code` is needed.
pipe = DiffusionPipeline.from_pretrained(options.repository)
voice = next(iter(packaged_voices(options.model).values()))
output = pipe(
    options.text,
    reference_audio=str(voice.audio),
    reference_text=voice.text,
    num_inference_steps=4,
    generator=torch.Generator().manual_seed(0),
)
soundfile.write(options.out, output.audios[0], output.sampling_rate)
print(f"{type(pipe).__name__} of {options.repository}: {options.out}")
