"""Runs of `dtm_hf.synthesize` with a tiny model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dtm_hf.synthesize.__main__ import app

NUM_ROWS = 16
LINES = [f"Line {'one two three four five six seven eight'[: 3 + 5 * (i % 8)]}." for i in range(NUM_ROWS)]
LONG = 5
FAST = ("--steps", "1", "--head-steps", "0", "--device", "cpu", "--num-shards", "3")


@pytest.fixture(scope="session")
def sources(port_source, reference_audio, tmp_path_factory):
    """Folder of a model with two voices, and a list of texts of which three cannot be spoken."""
    folder = tmp_path_factory.mktemp("sources")
    port_source.save_pretrained(folder / "tiny")
    voices = folder / "voices"
    voices.mkdir()
    for name, said in {"anna": "What is said.", "ben": "What was said."}.items():
        (voices / f"{name}.wav").write_bytes(reference_audio.read_bytes())
        (voices / f"{name}.txt").write_text(said)
    rows = [{"text": line, "voice": None} for line in LINES]
    rows[3]["text"], rows[7]["voice"], rows[11]["text"], rows[9]["voice"] = " ", "carl", "語", "ben"
    # Of several chunks.
    rows[LONG]["text"] = "A long line, which is cut into chunks, " * 12
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def arguments(sources, output, *more):
    model, voices = str(sources / "tiny"), str(sources / "voices")
    texts = str(sources / "texts.jsonl")
    return ["--texts", texts, "--model", model, "--voices", voices, "-o", str(output), *FAST, *more]


def run(sources, output, *more):
    return CliRunner().invoke(app, arguments(sources, output, *more))


def contents(output):
    """What is not bookkeeping."""
    paths = [path for path in Path(output).rglob("*") if path.is_file() and ".work" not in path.parts]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


__all__ = ["FAST", "LINES", "LONG", "NUM_ROWS", "arguments", "contents", "run", "sources"]
