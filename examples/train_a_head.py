"""
Train a flow head for a backbone on your own folder of clips, and speak with it.

    python examples/train_a_head.py CLIPS [--out runs/my-head] [--steps 2000]
    python examples/train_a_head.py CLIPS --base org/dtm-f5 --reference-audio my.wav --reference-text "What is said."

CLIPS holds audio files and a `metadata.csv` with the columns `file_name` and `text`. Without a base, the embedded
model's backbone and its first voice. The same command goes on where it stopped.
"""

import argparse
from pathlib import Path

import soundfile
import torch

from dtm_hf import DTMPipeline
from dtm_hf.commands.console import ArgumentError
from dtm_hf.commands.models import EMBEDDED, choose_reference
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.passes import RowChecks
from dtm_hf.training.corpus.prepare import Preparation, prepare
from dtm_hf.training.train import main as train

parser = argparse.ArgumentParser()
parser.add_argument("clips")
parser.add_argument("--base", default=str(EMBEDDED))
parser.add_argument("--out", type=Path, default=Path("runs/my-head"))
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--reference-audio", type=Path, help="recording to speak like; by default a packaged one")
parser.add_argument("--reference-text", help="what is said in it")
parser.add_argument("--text", default="The train leaves at half past nine.")
options = parser.parse_args()
# Before anything takes long.
try:
    voice = choose_reference(options.base, options.reference_audio, options.reference_text, None)
except ArgumentError as error:
    parser.error(str(error))

# Shuffled shards of what can be trained on, and some clips set apart to validate with.
corpus = options.out / "corpus"
source = SourceArguments(options.clips, format="audiofolder", speaker_column=None)
manifest = prepare(
    Preparation(source, "train", None, 256, 2, False, 0, RowChecks(0.3, 30.0, 24_000)), corpus, workers=1
)
print(f"{manifest['rows']} clips, {manifest['hours']:.3f} h")

fields = {
    "objective": "dtm",
    "base_model": options.base,
    "dataset": corpus,
    "output_dir": options.out / "run",
    "max_steps": options.steps,
    "frames_per_batch": 2000,
    "head_hidden_size": 128,
    "head_num_layers": 2,
    "head_architecture": "conv",
    "num_workers": 0,
    "num_validation_batches": 1,
    "save_interval": max(options.steps // 4, 1),
    "eval_interval": max(options.steps // 4, 1),
    "warmup_steps": min(100, options.steps),
    "report_to": "none",
}
train([text for name, value in fields.items() for text in (f"--{name}", str(value))])

# The run is a whole pipeline; `--push_to_hub org/name` would have pushed it while it trained.
pipe = DTMPipeline.from_pretrained(options.out / "run")
output = pipe(
    options.text,
    reference_audio=str(voice.audio),
    reference_text=voice.text,
    num_inference_steps=4,
    generator=torch.Generator().manual_seed(0),
)
soundfile.write(options.out / "speech.wav", output.audios[0], output.sampling_rate)
print(options.out / "speech.wav")
