"""
Word errors of a pipeline on held-out sentences, beside those of the recordings through the same vocoder.

    python -m dtm_hf.evaluation.intelligibility MODEL CORPUS --arms euler-32,dtm-8x2,dtm-4x4 -o results.json
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from dtm_hf.evaluation.arms import Arm, parse_arms
from dtm_hf.evaluation.recognition import VocabularyRecognizer, WordErrors, word_errors
from dtm_hf.evaluation.sets import BenchmarkSet, load_set
from dtm_hf.files import written_aside


def evaluate(pipe, held_out: BenchmarkSet, arms: list[Arm], seed: int, batch_size: int) -> dict:
    """Word error rate, its interval and the seconds of sampling of each arm and of the vocoded recordings."""
    import torch

    from dtm_hf.evaluation.samplers import run_arm

    items, rate = held_out.items, held_out.sampling_rate
    recognizer = VocabularyRecognizer(held_out.vocabulary)
    texts = [item.text for item in items]
    results = {"recordings": _figures(word_errors(texts, [recognizer.transcribe(i.recording, rate) for i in items]))}
    vocoded = []
    for item in items:
        mel = pipe.feature_extractor.log_mel(torch.from_numpy(item.recording)[None])
        vocoded.append(recognizer.transcribe(pipe.vocoder(mel)[0].numpy(), pipe.vocoder.sampling_rate))
    results["recordings, vocoded"] = _figures(word_errors(texts, vocoded))
    pipe.set_progress_bar_config(disable=True)
    for arm in arms:
        heard, seconds = [], 0.0
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            began = time.perf_counter()
            seeds = [seed * 100_003 + start + i for i in range(len(batch))]
            output = run_arm(pipe, arm, batch, rate, seeds)
            seconds += time.perf_counter() - began
            heard += [recognizer.transcribe(audio, output.sampling_rate) for audio in output.audios]
        figures = _figures(word_errors(texts, heard)) | {"seconds": round(seconds, 2)}
        print(arm.name, figures, flush=True)
        results[arm.name] = figures | {"heard": heard}
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
    parsed = parse_arms(arms)
    held_out = load_set(str(corpus), limit, split)
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

    pipe = DTMPipeline.from_pretrained(model)
    results = evaluate(pipe, held_out, parsed, seed, batch_size)
    for name, figures in results.items():
        print(f"{name:28s} WER {figures['word_error_rate']:.3f} {figures['interval_95']}")
    if output is not None:
        with written_aside(output) as partial:
            partial.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    typer.run(main)
