"""
Word errors of a pipeline on held-out sentences, beside those of the recordings through the same vocoder.

    python -m dtm_hf.evaluation.intelligibility MODEL CORPUS --arms euler-32,dtm-8x2,dtm-4x4 -o results.json
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dtm_hf.evaluation.recognition import VocabularyRecognizer, WordErrors, word_errors
from dtm_hf.files import written_aside


@dataclass
class HeldOutItem:
    """A sentence, its recording at `sampling_rate`, and a prompt of the same speaker."""

    text: str
    waveform: np.ndarray
    prompt: np.ndarray
    prompt_text: str


def parse_arm(name: str) -> dict[str, object]:
    """
    `euler-32` (baseline, 32 steps with guidance), `dtm-8x2` (8 steps of 2 head calls), either with `-noguidance`
    behind it.

    Raises:
        ValueError: for a name of another form.
    """
    match = re.fullmatch(r"(?:euler-(\d+)|dtm-(\d+)x(\d+))(-noguidance)?", name)
    if match is None:
        raise ValueError(
            f"`arms` must read euler-STEPS or dtm-STEPSxCALLS, with -noguidance behind it, but got {name!r}."
        )
    euler, steps, calls, without = match.groups()
    return {
        "num_inference_steps": int(euler or steps),
        "num_head_steps": int(calls or 0),
        "guidance_scale": 1.0 if without else 3.0,
    }


def held_out_items(corpus: Path, split: str, limit: int, sampling_rate: int) -> list[HeldOutItem]:
    """The first `limit` sentences of a split; the prompt of each is what its speaker said before it."""
    import io

    import soundfile
    import soxr
    from datasets import Audio, load_dataset

    shards = sorted(str(path) for path in corpus.glob(f"{split}-*.parquet"))
    if not shards:
        raise ValueError(f"`corpus` {str(corpus)!r} holds no {split}-*.parquet shards.")
    rows = load_dataset("parquet", data_files=shards, split="train", streaming=True)
    items, previous = [], {}
    for row in rows.cast_column("audio", Audio(decode=False)):
        waveform, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        waveform = waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate)
        if row["speaker"] in previous:
            prompt, prompt_text = previous[row["speaker"]]
            items.append(HeldOutItem(row["text"], waveform, prompt, prompt_text))
        # A prompt of a second or more: the pace of a shorter one says too little.
        if len(waveform) >= 1.2 * sampling_rate:
            previous[row["speaker"]] = waveform, row["text"]
        if len(items) == limit:
            return items
    raise ValueError(
        f"`corpus` has {len(items)} sentences with a prompt in {split}, fewer than the {limit} asked for."
    )


def evaluate(
    pipe, items: list[HeldOutItem], vocabulary: list[str], arms: list[str], seed: int, batch_size: int
) -> dict:
    """Word error rate, its interval and the seconds of sampling of each arm and of the vocoded recordings."""
    import torch

    recognizer = VocabularyRecognizer(vocabulary)
    texts = [item.text for item in items]
    results = {"recordings": _figures(word_errors(texts, [recognizer.transcribe(i.waveform, 24000) for i in items]))}
    vocoded = []
    for item in items:
        mel = pipe.feature_extractor.log_mel(torch.from_numpy(item.waveform)[None])
        vocoded.append(recognizer.transcribe(pipe.vocoder(mel)[0].numpy(), pipe.vocoder.sampling_rate))
    results["recordings, vocoded"] = _figures(word_errors(texts, vocoded))
    pipe.set_progress_bar_config(disable=True)
    for arm in arms:
        heard, seconds = [], 0.0
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            began = time.perf_counter()
            output = pipe(
                [item.text for item in batch],
                [(item.prompt, 24000) for item in batch],
                [item.prompt_text for item in batch],
                generator=[torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(batch))],
                **parse_arm(arm),
            )
            seconds += time.perf_counter() - began
            heard += [recognizer.transcribe(audio, output.sampling_rate) for audio in output.audios]
        results[arm] = _figures(word_errors(texts, heard)) | {"seconds": round(seconds, 2), "heard": heard}
        print(arm, {key: value for key, value in results[arm].items() if key != "heard"}, flush=True)
    return results


def _figures(errors: WordErrors) -> dict[str, object]:
    low, high = errors.interval()
    return {
        "word_error_rate": round(errors.rate, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "sentences": len(errors.words),
        "words": int(errors.words.sum()),
    }


def main(
    model: Annotated[str, typer.Argument(help="Pipeline folder or Hub name.")],
    corpus: Annotated[Path, typer.Argument(help="Folder of parquet shards with a corpus.json beside them.")],
    arms: Annotated[str, typer.Option(help="Comma-separated arms.")] = "euler-32,dtm-8x2,dtm-4x4",
    split: Annotated[str, typer.Option(help="validation to tune, test to report.")] = "validation",
    limit: Annotated[int, typer.Option(help="Sentences.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Sentences sampled at once.")] = 10,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the results.")] = None,
) -> None:
    """Measure how well a pipeline is understood."""
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

    names = arms.split(",")
    for name in names:
        parse_arm(name)
    vocabulary = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))["vocabulary"]
    pipe = DTMPipeline.from_pretrained(model)
    items = held_out_items(corpus, split, limit, 24000)
    results = evaluate(pipe, items, vocabulary, names, seed, batch_size)
    for name, figures in results.items():
        print(f"{name:28s} WER {figures['word_error_rate']:.3f} {figures['interval_95']}")
    if output is not None:
        with written_aside(output) as partial:
            partial.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    typer.run(main)
