"""What a Hub keeps: contents by sha256 under `blobs/`, each repository as one JSON file with the trees of all commits.

Any revision therefore stays readable, and a second server on the same folder goes on where the first stopped.
"""

import base64
import datetime
import fnmatch
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator

from hub_card_rules import check_card

LFS_SUFFIXES = (
    "7z arrow bin ckpt ftz gz h5 joblib model msgpack npy npz onnx ot parquet pb pickle pkl pt pth safetensors"
)
LFS_THRESHOLD = 10 * 1024 * 1024
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES.split()
).encode()


class HubError(Exception):
    """A refusal: HTTP status, the `X-Error-Code` by which the client picks its exception class, and a message."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None, **headers: str):
        super().__init__(message)
        self.status, self.body, self.headers = status, body or {}, headers
        self.headers["X-Error-Message"] = message.encode("ascii", "replace").decode().replace("\n", " ")
        if code:
            self.headers["X-Error-Code"] = code


class Store:
    """Repositories in a folder: each has `private`, `branches`, `tags` and `commits` (id -> tree, parent, title)."""

    def __init__(self, folder: os.PathLike | str):
        self.folder = pathlib.Path(folder)
        (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()

    def _file(self, kind: str, repo_id: str) -> pathlib.Path:
        return self.folder / kind / f"{repo_id.replace('/', '--')}.json"

    def _write(self, path: pathlib.Path, chunks: Iterator[bytes] | list[bytes]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        os.replace(file.name, path)
        return digest.hexdigest()

    def put_blob(self, chunks: Iterator[bytes], expected: str | None = None) -> str:
        """Stores a content under its sha256; refuses one that does not have the `expected` sum."""
        arriving = self.folder / "blobs" / f"arriving-{threading.get_ident()}"
        digest = self._write(arriving, chunks)
        if expected not in (None, digest):
            arriving.unlink()
            raise HubError(400, f"the uploaded content has sha256 {digest}, but {expected} was announced")
        os.replace(arriving, self.blob(digest))
        return digest

    def blob(self, digest: str) -> pathlib.Path:
        return self.folder / "blobs" / digest

    def load(self, kind: str, repo_id: str, readable: bool = True) -> dict:
        path = self._file(kind, repo_id)
        repo = json.loads(path.read_bytes()) if path.exists() else None
        if repo is None or (repo["private"] and not readable):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def save(self, kind: str, repo_id: str, repo: dict) -> None:
        self._write(self._file(kind, repo_id), [json.dumps(repo).encode()])

    def create(self, kind: str, repo_id: str, private: bool, url: str) -> None:
        if self._file(kind, repo_id).exists():
            raise HubError(409, "You already created this repo", body={"url": url})
        repo = {"private": private, "branches": {"main": None}, "tags": {}, "commits": {}}
        self.add_commit(repo, "main", {".gitattributes": self.entry(GITATTRIBUTES)}, "initial commit")
        self.save(kind, repo_id, repo)

    def delete(self, kind: str, repo_id: str) -> None:
        self._file(kind, repo_id).unlink()

    def entry(self, content: bytes) -> dict:
        """A regular file: its git object id is the one `git hash-object` would print, which is its ETag."""
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"size": len(content), "oid": oid, "sha256": self.put_blob(iter([content])), "lfs": False}

    def lfs_entry(self, digest: str) -> dict:
        if not self.blob(digest).exists():
            raise HubError(400, f"LFS object {digest} has not been uploaded")
        size = self.blob(digest).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
        oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
        return {"size": size, "oid": oid, "sha256": digest, "lfs": True, "pointer_size": len(pointer)}

    def add_commit(self, repo: dict, branch: str, tree: dict, title: str) -> str:
        parent, date = repo["branches"][branch], datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        commit = {"tree": tree, "title": title, "date": date, "parent": parent}
        commit_id = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        repo["commits"][commit_id] = commit
        repo["branches"][branch] = commit_id
        return commit_id

    def resolve(self, repo: dict, revision: str) -> str:
        """The commit id of a branch, a tag or a commit id (whole, or at least seven digits of it)."""
        for names in (repo["branches"], repo["tags"]):
            if revision in names:
                return names[revision]
        found = [c for c in repo["commits"] if len(revision) >= 7 and c.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def apply(self, repo: dict, branch: str, lines: list[dict]) -> str:
        """One commit from its ndjson lines; nothing changes if any of them is refused."""
        if branch not in repo["branches"]:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, tree = {}, dict(repo["commits"][repo["branches"][branch]]["tree"])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                head = value
                if value.get("parentCommit") not in (None, repo["branches"][branch]):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                content = base64.b64decode(value["content"])
                if len(content) > LFS_THRESHOLD:
                    raise HubError(400, f"{value['path']} is larger than 10 MiB and must be an LFS file")
                if value["path"] == "README.md" and (errors := check_card(content.decode())[0]):
                    raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
                tree[value["path"]] = self.entry(content)
            elif key == "lfsFile":
                tree[value["path"]] = self.lfs_entry(value["oid"])
            elif key == "deletedFile" and value["path"] in tree:
                del tree[value["path"]]
            elif key == "deletedFolder":
                tree = {
                    path: entry for path, entry in tree.items() if not path.startswith(value["path"].rstrip("/") + "/")
                }
            else:
                raise HubError(400, f"cannot apply {key} to {value.get('path')}")
        return self.add_commit(repo, branch, tree, head.get("summary", ""))

    def wants_lfs(self, tree: dict, path: str, size: int, sample: bytes) -> bool:
        rules = self.blob(tree[".gitattributes"]["sha256"]).read_text() if ".gitattributes" in tree else ""
        patterns = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        matched = any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (path, path.split("/")[-1]))
        return matched or size > LFS_THRESHOLD or b"\0" in sample
