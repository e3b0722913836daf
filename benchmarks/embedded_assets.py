"""
The embedded pipeline of finished runs, weights in bfloat16.

    python benchmarks/embedded_assets.py RUNS OUT

RUNS holds `voice_policy` and `voice_student`; OUT gets the pipeline and `student/`. `embedded_voices.py` adds the
voices.
"""

import sys
from pathlib import Path

import torch

from dtm_hf import DTMPipeline, Student, TextNormalizer, TokenDurations

# Of the default call: docs/embedded-model.md says what was tried.
GUIDANCE_SCALE = 3.0


def main(runs: Path, out: Path) -> None:
    made = DTMPipeline.from_pretrained(runs / "voice_policy")
    made.head.config.guidance_scale = GUIDANCE_SCALE
    components = made.components | {
        "duration_predictor": TokenDurations.from_pretrained(runs / "voice_durations"),
        "text_normalizer": TextNormalizer(language="en"),
    }
    pipeline = DTMPipeline(**components, mean_mel=made.config.mean_mel)
    for part in (pipeline.backbone, pipeline.head, pipeline.text_aligner, pipeline.duration_predictor):
        torch.nn.Module.to(part, torch.bfloat16)
    pipeline.save_pretrained(out)
    student = Student.from_pretrained(runs / "voice_student" / "student")
    halves = {name: tensor.bfloat16() for name, tensor in student.tensors.items()}
    Student(student.config, halves).save_pretrained(out / "student")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
