"""What a preparation came to: its figures, the list of rows left out, and the card of the data set."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dtm_hf.training.data.formats import Shard

# Speakers that the card lists; the manifest has all.
_LISTED = 20

_CARD = """---
task_categories:
- text-to-speech
configs:
- config_name: default
  data_files:
{data_files}
---
# Speech from {dataset}

Prepared by `python -m dtm_hf.training.corpus prepare` from the split `{split}` of `{dataset}`{revision}, seed {seed}:
rows in random order, in shards of even size. {audio} Licence and terms are those of the source.

| column | holds |
|---|---|
| `audio` | `bytes`: the encoded clip; `path`: the shard and the row of the source that it is from |
| `text` | {text} |
| `speaker` | who speaks, if the source says so |
| `duration` | seconds |

{rows}; {hours:.2f} hours.

| speaker | hours |
|---|---|
{speakers}

{skipped}
"""


def add_up(units: Sequence[Path], shards: Sequence[Shard]) -> dict:
    """
    The figures of all units, folders that `store_shard` wrote, as `manifest.json` has them.

    Raises:
        ValueError: if there is no row, or some texts are strings and some lists of tokens.
    """
    rows, token_rows, size, seconds, skipped, broken, splits = 0, 0, 0, Counter(), Counter(), [], Counter()
    for shard, summary in _summaries(units, shards):
        rows += summary["rows"]
        token_rows += summary["token_rows"]
        size += summary["bytes"]
        seconds.update(summary["seconds"])
        splits.update(summary.get("splits", {}))
        skipped.update(reason for _, reason in summary["skipped"])
        if summary["broken"] and shard.name not in broken:
            broken.append(shard.name)
    if rows == 0:
        reasons = dict(skipped) | ({"shards that cannot be read": len(broken)} if broken else {})
        raise ValueError(f"`source`: none of its rows can be used: {reasons or 'there are none'}")
    if 0 < token_rows < rows:
        raise ValueError(f"`source`: texts must be strings or lists of tokens, but got {token_rows} lists of {rows}")
    return {
        "rows": rows,
        "rows_by_text": dict(splits),
        "bytes": size,
        "tokens": token_rows > 0,
        "hours": round(seconds.total() / 3600, 4),
        "hours_by_speaker": {name: round(value / 3600, 4) for name, value in sorted(seconds.items())},
        "skipped": dict(sorted(skipped.items())),
        "broken_shards": broken,
    }


def write_skipped(units: Sequence[Path], shards: Sequence[Shard], path: Path) -> None:
    """A line of JSON for every row left out, with its shard, row and reason; for a broken shard the row is null."""
    with open(path, "w", encoding="utf-8") as file:
        for shard, summary in _summaries(units, shards):
            lines = [*summary["skipped"]]
            if summary["broken"]:
                lines.append((None, f"not read to its end: {summary['broken']}"))
            for row, reason in lines:
                file.write(json.dumps({"shard": shard.name, "row": row, "reason": reason}) + "\n")


def dataset_card(manifest: dict) -> str:
    """`README.md` of the data set; its header makes `load_dataset` find the splits."""
    arguments, source = manifest["arguments"], manifest["arguments"]["source"]
    splits = Counter()
    for name, rows in manifest["shards"].items():
        splits[name.split("-")[0]] += rows
    speakers = sorted(manifest["hours_by_speaker"].items(), key=lambda item: (-item[1], item[0]))
    table = [f"| {name or 'not given'} | {hours:.2f} |" for name, hours in speakers[:_LISTED]]
    if len(speakers) > _LISTED:
        rest = sum(hours for _, hours in speakers[_LISTED:])
        table.append(f"| {len(speakers) - _LISTED} others | {rest:.2f} |")
    left_out = [f"{count} {reason}" for reason, count in manifest["skipped"].items()]
    left_out += [f"shards not read to their end: {', '.join(manifest['broken_shards'])}"] * bool(
        manifest["broken_shards"]
    )
    rate = arguments["checks"]["sampling_rate"]
    return _CARD.format(
        data_files="\n".join(f"  - split: {name}\n    path: {name}-*.parquet" for name in splits),
        dataset=source["dataset"],
        split=arguments["split"],
        revision=f", revision `{source['revision']}`" if source["revision"] else "",
        seed=arguments["seed"],
        audio=f"Audio is 16-bit FLAC, mono, {rate} Hz." if rate else "Audio is as the source has it.",
        text="the tokens of the transcript" if manifest["tokens"] else "the transcript",
        rows=", ".join(f"{rows} rows of {name}" for name, rows in splits.items()),
        hours=manifest["hours"],
        speakers="\n".join(table),
        skipped=f"Rows left out, listed in `skipped.jsonl`: {'; '.join(left_out)}."
        if left_out
        else "No row was left out.",
    )


def _summaries(units: Sequence[Path], shards: Sequence[Shard]) -> Iterator[tuple[Shard, dict]]:
    for unit, shard in zip(units, shards, strict=True):
        yield shard, json.loads((unit / "summary.json").read_text(encoding="utf-8"))
