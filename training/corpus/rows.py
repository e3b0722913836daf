"""The rows of a corpus that is built here, and the parquet shards that hold them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from dtm_hf.files import written_aside
from dtm_hf.training.corpus.render import SAMPLE_RATE

_FEATURES = {
    "id": {"dtype": "string", "_type": "Value"},
    "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
    "text": {"dtype": "string", "_type": "Value"},
    "speaker": {"dtype": "string", "_type": "Value"},
    "duration": {"dtype": "float64", "_type": "Value"},
}

# The metadata that `datasets` itself writes: with it, load_dataset gives an Audio feature and no cast is needed.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("duration", pa.float64()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)

# Small row groups: a streaming reader holds one at a time.
_ROW_GROUP_SIZE = 100


def write_table(table: pa.Table, path: Path) -> None:
    """Write a shard aside, then put it in place."""
    with written_aside(path) as aside:
        # FLAC does not compress any further.
        pq.write_table(table, aside, row_group_size=_ROW_GROUP_SIZE, compression="none")


def flac_bytes(waveform: np.ndarray) -> bytes:
    """A mono waveform within +-1, at `SAMPLE_RATE`, as 16-bit FLAC."""
    buffer = io.BytesIO()
    samples = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)
    sf.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
