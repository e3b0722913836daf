"""A Hub on loopback: the part of the Hugging Face Hub's HTTP protocol that loading and pushing use.

    with HubServer(folder) as hub:
        HfApi(endpoint=hub.url, token="any").create_repo("org/name")

Code that takes no endpoint reads `HF_ENDPOINT`, and does so when `huggingface_hub` is imported. The tests' process has
one of its own from the start (`conftest.py`), where [`hub_of_this_process`] serves; a new process gets
`hub.environment(home)`. Large files go through git-LFS: this Hub does not speak Xet.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

from hub_card_rules import check_card, read_metadata
from hub_store import HubError, Store
from loopback import environment

CHUNK = 1 << 20
REPO = r"(?P<org>[^/]+)/(?P<name>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
ROUTES = [
    ("POST", r"/api/repos/create", "create_repo"),
    ("DELETE", r"/api/repos/delete", "delete_repo"),
    ("POST", r"/api/validate-yaml", "validate_card"),
    ("GET", r"/api/whoami-v2", "who_am_i"),
    ("GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?", "repo_info"),
    ("GET", rf"{API}/refs", "refs"),
    ("GET", rf"{API}/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", "create_branch"),
    ("POST", rf"{API}/tag/(?P<revision>[^/]+)", "create_tag"),
    ("POST", rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<digest>[0-9a-f]{64})", "lfs_upload"),
    ("GET HEAD", r"/lfs/(?P<digest>[0-9a-f]{64})", "lfs_download"),
    ("GET HEAD", rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
READS_BY_POST = ("paths_info", "validate_card")


@contextmanager
def hub_of_this_process(folder: os.PathLike | str, token: str = "hf_test") -> Iterator["HubServer"]:
    """A [`HubServer`] at the `HF_ENDPOINT` of this process, which has its token and an empty cache."""
    from huggingface_hub import close_session, constants

    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    os.environ["HF_TOKEN"] = token
    try:
        with HubServer(folder, token, urllib.parse.urlsplit(constants.ENDPOINT).port) as hub:
            yield hub
    finally:
        # A connection that is kept open would reach the old server's thread in the place of a new server.
        close_session()
        os.environ.pop("HF_TOKEN", None)


class HubServer:
    """The server and its switches.

    Args:
        folder: where repositories are kept.
        token: if given, writing, and reading private repositories, needs `Authorization: Bearer <token>`.
        port: where to listen; 0 is any that is free.

    Attributes:
        url: what to use as the endpoint.
        requests: "METHOD path" of every request so far, failed ones included.
    """

    def __init__(self, folder: os.PathLike | str, token: str | None = None, port: int = 0):
        self.store, self.token, self.requests, self._faults = Store(folder), token, [], []
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # Large files come from another host, as on the real Hub: there the client follows no redirect when it asks for
        # metadata, and sends no token.
        self.cdn_url = f"http://localhost:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def environment(self, home: os.PathLike | str) -> dict[str, str]:
        """The environment for a process that shall see this Hub and no other, with its caches under `home`."""
        return environment(self.url, home) | {"HF_TOKEN": self.token or "hf_loopback"}

    def fail_next(self, count: int, status: int = 500, matching: str = "") -> None:
        """Answers the next `count` requests whose "METHOD path" has a match for `matching` with `status`."""
        self._faults = [(re.compile(matching), status)] * count

    def take_fault(self, request: str) -> int | None:
        with self.store.lock:
            if self._faults and self._faults[0][0].search(request):
                return self._faults.pop(0)[1]
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = urllib.parse.parse_qs(query)
        self.body = self._chunks()
        self.hub.requests.append(f"{self.command} {urllib.parse.unquote(path)}")
        try:
            if (status := self.hub.take_fault(self.hub.requests[-1])) is not None:
                raise HubError(status, "Internal Error - We're working hard to fix this as soon as possible!")
            for methods, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split():
                    self._authorize(action)
                    parts = {key: urllib.parse.unquote(value) for key, value in match.groupdict().items() if value}
                    if "org" in parts:
                        parts = {"kind": "models", "repo_id": f"{parts.pop('org')}/{parts.pop('name')}"} | parts
                    return getattr(self, action)(**parts)
            raise HubError(404, f"Sorry, we can't find the page you are looking for: {path}")
        except HubError as refusal:
            self._send(refusal.status, {"error": str(refusal), **refusal.body}, refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    # Reading the request

    def _chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            if not chunk:
                raise ConnectionError(f"the client closed the connection {left} bytes before the end of its body")
            left -= len(chunk)
            yield chunk

    def _json(self) -> dict:
        return json.loads(b"".join(self.body) or b"{}")

    @property
    def _has_token(self) -> bool:
        given = self.headers.get("Authorization", "")
        return given == f"Bearer {self.hub.token}" if self.hub.token else given.startswith("Bearer ")

    def _authorize(self, action: str) -> None:
        # Uploads go to a signed address on the real Hub, so a PUT carries no token.
        writes = self.command in ("POST", "DELETE") and action not in READS_BY_POST
        if (writes or action == "who_am_i") and not self._has_token:
            raise HubError(401, "Invalid username or password.")

    def _load(self, kind: str, repo_id: str) -> dict:
        return self.hub.store.load(kind, repo_id, readable=self._has_token)

    def _tree(self, kind: str, repo_id: str, revision: str) -> tuple[dict, str, dict]:
        repo = self._load(kind, repo_id)
        commit_id = self.hub.store.resolve(repo, revision)
        return repo, commit_id, repo["commits"][commit_id]["tree"]

    # Writing the answer

    def _send(self, status: int, value: object = None, headers: dict | None = None) -> None:
        for _ in self.body:  # what is left of a refused request would be read as the next one
            pass
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_blob(self, digest: str, headers: dict) -> None:
        """A content, or the part of it that `Range` asks for."""
        path = self.hub.store.blob(digest)
        if not path.exists():
            raise HubError(404, "Not Found")
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            low, high = asked.groups()
            first, last = (int(low), min(int(high or last), last)) if low else (max(size - int(high), 0), last)
            if first > last:
                raise HubError(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{size}"})
            status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        self.send_response(status)
        for key, text in {"Accept-Ranges": "bytes", **headers, "Content-Length": str(last - first + 1)}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        with open(path, "rb") as file:
            file.seek(first)
            left = last - first + 1
            while left:
                left -= self.wfile.write(file.read(min(CHUNK, left)))

    # Repositories

    def create_repo(self) -> None:
        asked = self._json()
        kind, repo_id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        with self.hub.store.lock:
            self.hub.store.create(kind, repo_id, private=asked.get("visibility") == "private", url=url)
        self._send(200, {"url": url, "name": repo_id})

    def delete_repo(self) -> None:
        asked = self._json()
        kind, repo_id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'tester'}/{asked['name']}"
        with self.hub.store.lock:
            self._load(kind, repo_id)
            self.hub.store.delete(kind, repo_id)
        self._send(200)

    def who_am_i(self) -> None:
        self._send(200, {"type": "user", "id": "0", "name": "tester", "fullname": "Tester", "orgs": [], "auth": {}})

    def validate_card(self) -> None:
        errors, warnings = check_card(self._json()["content"])
        messages = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        self._send(400 if errors else 200, messages)

    def repo_info(self, kind: str, repo_id: str, revision: str = "main") -> None:
        repo, commit_id, tree = self._tree(kind, repo_id, revision)
        readme = tree.get("README.md")
        card = (readme and read_metadata(self.hub.store.blob(readme["sha256"]).read_text())) or {}
        licenses = card.get("license") or []
        licenses = licenses if isinstance(licenses, list) else [licenses]
        tags = [*card.get("tags", []), *(f"license:{license_id}" for license_id in licenses)]
        siblings = [{"rfilename": path} for path in sorted(tree)]
        if "blobs" in self.query:
            siblings = [{"rfilename": p} | self._file(p, tree[p], id_key="blobId") for p in sorted(tree)]
        answer = {
            "_id": "0" * 24,
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit_id,
        }
        answer |= {"private": repo["private"], "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        answer |= {
            "lastModified": repo["commits"][commit_id]["date"],
            "siblings": siblings,
            "tags": tags,
            "cardData": card,
        }
        answer |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
        self._send(200, answer)

    def refs(self, kind: str, repo_id: str) -> None:
        repo = self._load(kind, repo_id)
        lists = {
            key: [{"name": n, "ref": f"refs/{git}/{n}", "targetCommit": c} for n, c in repo[key].items()]
            for key, git in (("branches", "heads"), ("tags", "tags"))
        }
        self._send(200, {**lists, "converts": [], "pullRequests": []})

    def commits(self, kind: str, repo_id: str, revision: str) -> None:
        repo, commit_id, _ = self._tree(kind, repo_id, revision)
        history = []
        while commit_id:
            commit = repo["commits"][commit_id]
            author = [{"user": "tester"}]
            history.append(
                {"id": commit_id, "title": commit["title"], "message": "", "date": commit["date"], "authors": author}
            )
            commit_id = commit["parent"]
        self._send(200, history)

    def create_branch(self, kind: str, repo_id: str, branch: str) -> None:
        start = self._json().get("startingPoint", "main")
        self._name_commit(kind, repo_id, "branches", branch, start)

    def create_tag(self, kind: str, repo_id: str, revision: str) -> None:
        self._name_commit(kind, repo_id, "tags", self._json()["tag"], revision)

    def _name_commit(self, kind: str, repo_id: str, names: str, name: str, revision: str) -> None:
        with self.hub.store.lock:
            repo, commit_id, _ = self._tree(kind, repo_id, revision)
            if name in repo[names]:
                raise HubError(409, f"Reference already exists: {name}")
            repo[names][name] = commit_id
            self.hub.store.save(kind, repo_id, repo)
        self._send(200)

    # Files

    def _file(self, path: str, entry: dict, id_key: str = "oid") -> dict:
        described = {"type": "file", "path": path, "size": entry["size"], id_key: entry["oid"]}
        if entry["lfs"]:
            size = {"size": entry["size"], "pointerSize": entry["pointer_size"]}
            described["lfs"] = {"oid": entry["sha256"], "sha256": entry["sha256"], **size}
        return described

    def _folder(self, path: str) -> dict:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def tree(self, kind: str, repo_id: str, revision: str, path: str = "") -> None:
        _, _, tree = self._tree(kind, repo_id, revision)
        prefix = f"{path.rstrip('/')}/" if path else ""
        inside = {p: entry for p, entry in sorted(tree.items()) if p.startswith(prefix)}
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        parents = {p[: i.start()] for p in inside for i in re.finditer("/", p) if i.start() >= len(prefix)}
        listed = [self._folder(p) for p in sorted(parents) if recursive or "/" not in p[len(prefix) :]]
        listed += [self._file(p, e) for p, e in inside.items() if recursive or "/" not in p[len(prefix) :]]
        self._send(200, listed)

    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        text = b"".join(self.body).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(text)["paths"] if is_json else urllib.parse.parse_qs(text).get("paths", [])
        _, _, tree = self._tree(kind, repo_id, revision)
        found = [self._file(p, tree[p]) for p in paths if p in tree]
        found += [self._folder(p) for p in paths if p not in tree and any(q.startswith(f"{p}/") for q in tree)]
        self._send(200, found)

    def resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        _, commit_id, tree = self._tree(kind, repo_id, revision)
        headers = {"X-Repo-Commit": commit_id}
        if path not in tree:
            raise HubError(404, "Entry not found", "EntryNotFound", **headers)
        entry = tree[path]
        if not entry["lfs"]:
            headers |= {"ETag": f'"{entry["oid"]}"', "Content-Type": "application/octet-stream"}
            return self._send_blob(entry["sha256"], headers)
        headers |= {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
        self._send(302, None, headers | {"Location": f"{self.hub.cdn_url}/lfs/{entry['sha256']}"})

    def lfs_download(self, digest: str) -> None:
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed: the address is signed already")
        self._send_blob(digest, {"ETag": f'"{digest}"', "Content-Type": "application/octet-stream"})

    # Pushing

    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        files = self._json()["files"]
        _, _, tree = self._tree(kind, repo_id, revision)
        answers = []
        for file in files:
            lfs = self.hub.store.wants_lfs(tree, file["path"], file["size"], base64.b64decode(file["sample"]))
            present = tree.get(file["path"])
            oid = present and present["sha256" if present["lfs"] else "oid"]
            mode = "lfs" if lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answers})

    def lfs_batch(self, kind: str, repo_id: str) -> None:
        self._load(kind, repo_id)
        objects = self._json()["objects"]
        for item in objects:
            if not self.hub.store.blob(item["oid"]).exists():
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, digest: str) -> None:
        self.hub.store.put_blob(self.body, expected=digest)
        self._send(200)

    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        lines = [json.loads(line) for line in b"".join(self.body).splitlines() if line]
        with self.hub.store.lock:
            repo = self._load(kind, repo_id)
            commit_id = self.hub.store.apply(repo, revision, lines)
            self.hub.store.save(kind, repo_id, repo)
        url = f"{self.hub.url}/{repo_id}/commit/{commit_id}"
        self._send(200, {"success": True, "commitOid": commit_id, "commitUrl": url, "hookOutput": ""})
