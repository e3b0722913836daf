"""Files of the Hub's cache, which are named by what they hold: wrong bytes of the right length would stay for ever."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

# Names of large files are SHA-256 of their bytes, those of small ones Git's own hash.
_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def discard_damaged(source: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> list[str]:
    """
    Delete what holds other bytes than its name says, so that the next load fetches it anew.

    Args:
        source (`str` or `os.PathLike`): A repository of models, whose files in the cache are looked at; or a file.
        cache_dir (`str` or `os.PathLike`, *optional*): The cache; the Hub's own by default.

    Returns:
        `list[str]`: the files that were deleted, by their names in the repository.
    """
    if os.path.isfile(source):
        return _discard([Path(source)])
    if os.path.exists(source) or str(source).count("/") != 1:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or HF_HUB_CACHE) / repo_folder_name(repo_id=str(source), repo_type="model")
    return _discard(folder.glob("snapshots/**/*"))


def _discard(files: Iterable[Path]) -> list[str]:
    names: dict[Path, list[Path]] = {}
    for file in files:
        blob = file.resolve()
        # Where the file system has no links the cache holds plain files, whose names say nothing.
        if file.is_symlink() and blob.is_file() and blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
            names.setdefault(blob, []).append(file)
    damaged = []
    for blob, links in names.items():
        if _hash(blob) == blob.name:
            continue
        for path in (*links, blob):
            path.unlink(missing_ok=True)
        damaged.append(links[0].name)
    return damaged


def _hash(blob: Path) -> str:
    digest = hashlib.sha256()
    if len(blob.name) == 40:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(blob, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
