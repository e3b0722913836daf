"""Small corpora in every format that training reads."""

import io
import json
import tarfile

import numpy as np
import soundfile
from tiny import SAMPLING_RATE, voice


def encoded(waveform: np.ndarray, rate: int = SAMPLING_RATE, container: str = "WAV", subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def row(index: int, seconds: float, text: str | None = None, speaker: str = "a", content: bytes | None = None) -> dict:
    """A clip whose length tells it from the others."""
    content = encoded(voice(seconds, seed=index)) if content is None else content
    return {
        "audio": {"bytes": content, "path": None},
        "text": f"clip {chr(97 + index % 26)}" if text is None else text,
        "speaker": speaker,
    }


def short_rows(count: int, offset: int = 0, samples: int = 480) -> list[dict]:
    """Cheap clips of 20 ms and more, each one sample longer than the last: a length names a clip."""
    noise = np.random.default_rng(offset).standard_normal(samples + offset + count).astype(np.float32)
    lengths = range(samples + offset, samples + offset + count)
    return [row(i, 0, content=encoded(0.1 * noise[:n]), speaker="ab"[i % 2]) for i, n in enumerate(lengths)]


def write_parquet(folder, rows, shards=1, split="train"):
    """Rows dealt out to the shards in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("audio", audio), ("text", pa.string()), ("speaker", pa.string())])
    for i in range(shards):
        table = pa.Table.from_pylist(rows[i::shards], schema=schema)
        pq.write_table(table, folder / f"{split}-{i:05d}-of-{shards:05d}.parquet", row_group_size=50)
    return folder


def write_tar(path, members: list[tuple[str, bytes]]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_members(rows, prefix: str = "EN") -> list[tuple[str, bytes]]:
    """As Emilia has them: the audio, and a JSON with text and speaker."""
    members = []
    for i, entry in enumerate(rows):
        content = json.dumps({"text": entry["text"], "speaker": entry["speaker"], "dnsmos": 3.3}).encode()
        members += [(f"{prefix}_{i:06d}.wav", entry["audio"]["bytes"]), (f"{prefix}_{i:06d}.json", content)]
    return members


def write_audio_files(folder, rows) -> list[str]:
    (folder / "wavs").mkdir(parents=True)
    for i, entry in enumerate(rows):
        (folder / "wavs" / f"{i}.wav").write_bytes(entry["audio"]["bytes"])
    return [f"wavs/{i}.wav" for i in range(len(rows))]
