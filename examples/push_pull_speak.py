"""
Share a pipeline on the Hub, and speak with what others get of it.

    hf auth login
    python examples/push_pull_speak.py org/my-dtm [--out speech.wav]
    python examples/push_pull_speak.py org/my-dtm --model runs/mine --reference-audio my.wav --reference-text "Said."

Without a model, the embedded one is pushed, and its first voice speaks.
"""

import argparse
from pathlib import Path

import soundfile
import torch
from diffusers import DiffusionPipeline

from dtm_hf import DTMPipeline
from dtm_hf.commands.console import ArgumentError
from dtm_hf.commands.models import EMBEDDED, choose_reference

parser = argparse.ArgumentParser()
parser.add_argument("repository", help="org/name")
parser.add_argument("--model", default=str(EMBEDDED))
parser.add_argument("--reference-audio", type=Path, help="recording to speak like; by default a packaged one")
parser.add_argument("--reference-text", help="what is said in it")
parser.add_argument("--text", default="The train leaves at half past nine.")
parser.add_argument("--out", default="speech.wav")
options = parser.parse_args()
try:
    voice = choose_reference(options.model, options.reference_audio, options.reference_text, None)
except ArgumentError as error:
    parser.error(str(error))

DTMPipeline.from_pretrained(options.model).push_to_hub(options.repository)

# After `import dtm_hf`, diffusers knows the class, and no `trust_remote_code` is needed.
pipe = DiffusionPipeline.from_pretrained(options.repository)
output = pipe(
    options.text,
    reference_audio=str(voice.audio),
    reference_text=voice.text,
    num_inference_steps=4,
    generator=torch.Generator().manual_seed(0),
)
soundfile.write(options.out, output.audios[0], output.sampling_rate)
print(f"{type(pipe).__name__} of {options.repository}: {options.out}")
