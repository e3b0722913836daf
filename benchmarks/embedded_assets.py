"""
The embedded pipeline of finished runs: weights in bfloat16, and the mean log-mel of the data.

    python benchmarks/embedded_assets.py RUNS OUT

RUNS holds `voice_policy` and `voice_student`; OUT gets the pipeline and `student/`. Recordings of voices,
`reference-NAME.wav` with `reference-NAME.txt`, are put beside by hand.
"""

import sys
from pathlib import Path

import torch

from dtm_hf import DTMPipeline, Student, TextNormalizer, TokenDurations
from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.speech.rows import build_loader

# Of the default call: docs/embedded-model.md says what was tried.
GUIDANCE_SCALE = 3.0


def mean_log_mel(pipeline: DTMPipeline, corpus: str, batches: int = 40) -> list[float]:
    """Mean of the valid frames of some training clips, one number a bin."""
    data = DataArguments(sources=[SourceArguments(corpus)], frames_per_batch=4000, max_seconds=16.0)
    extractor, total, frames = pipeline.feature_extractor, 0.0, 0
    loader = build_loader(data, "train", pipeline.tokenizer, extractor, seed=0, rank=0, world_size=1)
    for _, raw in zip(range(batches), loader, strict=False):
        mel, lengths = extractor.log_mel(raw["waveform"], raw["num_samples"]), extractor.num_frames(raw["num_samples"])
        mask = torch.arange(mel.shape[1])[None] < lengths[:, None]
        total, frames = total + mel[mask].double().sum(dim=0), frames + int(lengths.sum())
    return [round(value, 4) for value in (total / frames).tolist()]


def main(runs: Path, out: Path) -> None:
    made = DTMPipeline.from_pretrained(runs / "voice_policy")
    made.head.config.guidance_scale = GUIDANCE_SCALE
    components = made.components | {
        "duration_predictor": TokenDurations.from_pretrained(runs / "voice_durations"),
        "text_normalizer": TextNormalizer(language="en"),
    }
    pipeline = DTMPipeline(**components, mean_mel=mean_log_mel(made, "corpus/voice-kokoro"))
    for part in (pipeline.backbone, pipeline.head, pipeline.text_aligner, pipeline.duration_predictor):
        torch.nn.Module.to(part, torch.bfloat16)
    pipeline.save_pretrained(out)
    student = Student.from_pretrained(runs / "voice_student" / "student")
    halves = {name: tensor.bfloat16() for name, tensor in student.tensors.items()}
    Student(student.config, halves).save_pretrained(out / "student")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
