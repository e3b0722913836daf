"""
The page of sounds, docs/sounds.md: one sentence in fewer and fewer passes, and what people type, with pictures.

    python benchmarks/sounds.py [docs]

By the embedded model, seed 0; the sounds are Opus of some ten kB each, so that they can lie in the repository.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from dtm_hf import DTMPipeline
from dtm_hf.commands.models import EMBEDDED
from dtm_hf.evaluation.arms import parse_arms
from dtm_hf.evaluation.lists import read_audio
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.samplers import run_arm
from dtm_hf.evaluation.systems import vocode
from dtm_hf.pictures import save_mel_picture

SENTENCE = "Nobody told the captain that the lighthouse had been dark for a week."
ARMS = {
    "euler-32": "F5-TTS's own sampler, both branches",
    "epss-7": "F5-TTS's seven chosen times, both branches",
    "euler-4": "four steps, both branches",
    "dtm-4x1": "four steps and a head",
    "student-4": "a student of four steps",
    "student-2": "a student of two",
    "euler-2@1": "two steps, no guidance",
}
TYPED = {
    "greeting": ("emma", "Good morning, Yuki, and welcome back!"),
    "question": ("michael", "How many apples do we need for the pie?"),
    "number": ("heart", "That will be forty-two dollars and ninety cents."),
    "address": ("george", "I live at seventeen Cedar Lane, near the station."),
    "twister": ("kathleen", "She sells sea shells by the sea shore."),
}


def voice(folder: Path, name: str, text: str) -> BenchmarkItem:
    """A text to be said in a packaged voice."""
    audio = read_audio(folder / f"reference-{name}.wav", 24_000, "reference")
    said = (folder / f"reference-{name}.txt").read_text(encoding="utf-8").strip()
    return BenchmarkItem(name, text, audio, said)


def heard(name: str) -> str:
    return f"[listen](sounds/{name}.ogg)"


def write(path: Path, wave: np.ndarray) -> None:
    soundfile.write(path, wave, 24_000, format="OGG", subtype="OPUS")


def main(docs: Path) -> None:
    pipe = DTMPipeline.from_pretrained(EMBEDDED)
    student = DTMPipeline(**pipe.components | {"head": None}).load_student(EMBEDDED / "student")
    for each in (pipe, student):
        each.set_progress_bar_config(disable=True)
    sounds = docs / "sounds"
    sounds.mkdir(parents=True, exist_ok=True)

    def say(arm, item: BenchmarkItem) -> tuple[np.ndarray, torch.Tensor]:
        (mel,) = run_arm(pipe, arm, [item], 24_000, [0], "mel", student=student).audios
        return vocode(pipe, [mel])[0], mel

    item, mels, lines = voice(EMBEDDED, "heart", SENTENCE), [], []
    for arm in parse_arms(",".join(ARMS)):
        baked = pipe.head is not None and arm.needs_head
        wave, mel = say(arm, item)
        name = arm.name.replace("@", "-guidance-")
        write(sounds / f"{name}.ogg", wave)
        mels.append(mel)
        lines.append(f"| `{arm.name}` | {arm.backbone_passes(baked)} | {ARMS[arm.name]} | {heard(name)} |")
    save_mel_picture(mels, sounds / "passes.png", titles=list(ARMS))
    typed, rows, (arm,) = [], [], parse_arms("student-4")
    for kind, (name, text) in TYPED.items():
        wave, mel = say(arm, voice(EMBEDDED, name, text))
        write(sounds / f"{kind}.ogg", wave)
        typed.append(mel)
        rows.append(f"| {kind}, `{name}` | {text} | {heard(kind)} |")
    save_mel_picture(typed, sounds / "typed.png", titles=[text for _, text in TYPED.values()])
    page = PAGE.format(sentence=SENTENCE, arms="\n".join(lines), typed="\n".join(rows))
    (docs / "sounds.md").write_text(page, encoding="utf-8")


PAGE = """# Sounds

<!-- Written by benchmarks/sounds.py. -->

By the embedded model, seed 0, first draws, nothing chosen. "{sentence}" in the voice `heart`, in fewer and fewer
passes of the network:

| | passes | | |
|---|---|---|---|
{arms}

![The same sentence in fewer and fewer passes](sounds/passes.png)

What people type, by the student in four passes:

| | | |
|---|---|---|
{typed}

![Five lines that people type](sounds/typed.png)
"""

if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
