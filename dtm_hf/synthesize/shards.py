"""Spoken rows as parquet that `load_dataset` reads, and what was left out of it."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from dtm_hf.files import written_aside
from dtm_hf.synthesize.journal import Journal
from dtm_hf.synthesize.plan import PlannedRow

SUMMARY, BAD_ROWS = "summary.json", "bad_rows.jsonl"
# Small row groups: a streaming reader holds one at a time.
_ROW_GROUP_SIZE = 100


def shard_path(output: Path, shard: int, num_shards: int) -> Path:
    """Where a shard lies, as `load_dataset` looks for it."""
    return output / "data" / f"train-{shard:05d}-of-{num_shards:05d}.parquet"


def to_flac(audio: np.ndarray, rate: int) -> bytes:
    """Float samples `(T,)` as 16-bit FLAC; what is louder than full scale is cut off."""
    file = io.BytesIO()
    samples = np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def write_shard(path: Path, rows: list[PlannedRow], journal: Journal, rate: int, settings: dict[str, Any]) -> None:
    """The spoken rows in the order of the plan; a shard without any is written too."""
    spoken = [row for row in rows if row.id in journal and row.id not in journal.errors]
    told, schema = json.dumps(settings, sort_keys=True), _schema(rate)
    # FLAC does not compress any further.
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="none") as writer:
        # Group by group: neither who writes nor who reads holds the whole.
        for start in range(0, len(spoken), _ROW_GROUP_SIZE):
            values = []
            for row in spoken[start : start + _ROW_GROUP_SIZE]:
                header, audio = journal.audio(row.id)
                said = {"id": row.id, "text": row.text, "speaker": row.voice, "seed": row.seed, "settings": told}
                sound = {"bytes": audio, "path": f"{row.id:09d}.flac"}
                values.append({**said, "audio": sound, "seconds": header["seconds"]})
            writer.write_table(pa.Table.from_pylist(values, schema=schema))


def _schema(rate: int) -> pa.Schema:
    kinds = {"id": "int64", "text": "string", "speaker": "string", "seed": "int64", "seconds": "float64"}
    kinds["settings"] = "string"
    features = {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()}
    features["audio"] = {"sampling_rate": rate, "_type": "Audio"}
    return pa.schema(
        [
            ("id", pa.int64()),
            ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("text", pa.string()),
            ("speaker", pa.string()),
            ("seed", pa.int64()),
            ("seconds", pa.float64()),
            ("settings", pa.string()),
        ],
        # As `datasets` itself writes it: with it, load_dataset gives an Audio feature and no cast is needed.
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def write_outcome(path: Path, journal: Journal, rate: int) -> None:
    """What became of a shard, beside it; written before the journal goes."""
    outcome = {
        "rows": len(journal.positions) - len(journal.errors),
        "seconds": round(journal.seconds, 6),
        "sampling_rate": rate,
        "bad": [{"id": row, "error": error} for row, error in sorted(journal.errors.items())],
    }
    with written_aside(path) as aside:
        aside.write_text(json.dumps(outcome) + "\n", encoding="utf-8")


def write_summary(
    output: Path, outcomes: Iterable[Path], unplanned: Iterable[dict], settings: dict[str, Any]
) -> dict[str, Any]:
    """Counts of the whole in `summary.json`, and every row that was left out in `bad_rows.jsonl`."""
    rows, seconds, bad = 0, 0.0, list(unplanned)
    for path in outcomes:
        outcome = json.loads(path.read_text(encoding="utf-8"))
        rows, seconds, bad = rows + outcome["rows"], seconds + outcome["seconds"], bad + outcome["bad"]
    bad.sort(key=lambda each: each["id"])
    with written_aside(output / BAD_ROWS) as aside:
        aside.write_text("".join(json.dumps(each) + "\n" for each in bad), encoding="utf-8")
    summary = {"rows": rows, "hours": round(seconds / 3600, 6), "bad_rows": len(bad), "settings": settings}
    with written_aside(output / SUMMARY) as aside:
        aside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
