"""The loopback Hub against the plain client: what huggingface_hub does with it and which exceptions it raises."""

import base64
import hashlib
import os
import pathlib

import httpx
import pytest
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# huggingface_hub uploads through an argument that httpx would like spelled otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

TOKEN = "hf_test"
REPO = "org/model"
CARD = """---
license: cc-by-nc-4.0
library_name: diffusers
pipeline_tag: text-to-speech
tags: [f5-tts]
base_model: SWivid/F5-TTS
language: [en, zh]
---
# Card
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    # The endpoint can be passed to every call, but whether Xet is used is one constant, read at call time.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(tmp_path / "hub", token=TOKEN) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def weights():
    return os.urandom(300_000)


@pytest.fixture
def pushed(api, tmp_path, weights):
    """The commit id of a repository with a card, a vocabulary, a nested config and weights."""
    folder = tmp_path / "source"
    (folder / "head").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "head/config.json").write_text('{"a": 1}')
    (folder / "head/model.safetensors").write_bytes(weights)
    (folder / "vocab.txt").write_bytes(b"word\n" * 2_200)
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=folder).oid


def test_a_pushed_folder_comes_back_byte_for_byte(api, pushed, cache, weights, tmp_path):
    snapshot = pathlib.Path(api.snapshot_download(REPO, cache_dir=cache))
    assert snapshot.name == pushed
    for source in (p for p in (tmp_path / "source").rglob("*") if p.is_file()):
        copy = snapshot / source.relative_to(tmp_path / "source")
        assert copy.read_bytes() == source.read_bytes()
    # The cache names a blob by its ETag: sha256 for LFS, the git object id for the rest.
    assert (snapshot / "head/model.safetensors").resolve().name == hashlib.sha256(weights).hexdigest()
    assert (snapshot / "head/config.json").resolve().name == hashlib.sha1(b'blob 8\0{"a": 1}').hexdigest()


def test_size_and_suffix_decide_what_is_lfs(api, pushed):
    api.upload_file(repo_id=REPO, path_or_fileobj=b"word\n" * 2_200_000, path_in_repo="large.txt")
    files = {f.path: f for f in api.list_repo_tree(REPO, recursive=True) if hasattr(f, "size")}
    assert {path for path, file in files.items() if getattr(file, "lfs", None)} == {
        "head/model.safetensors",
        "large.txt",
    }
    assert files["large.txt"].lfs.size == 11_000_000
    top = {f.path for f in api.list_repo_tree(REPO)}
    assert top == {".gitattributes", "README.md", "head", "large.txt", "vocab.txt"}
    info = api.get_paths_info(REPO, ["head/config.json", "head", "absent"])
    assert {f.path for f in info} == {"head/config.json", "head"}


def test_every_revision_stays_readable(api, pushed, cache):
    api.create_tag(REPO, tag="v1", revision=pushed)
    api.create_branch(REPO, branch="pr/next", revision="v1")
    later = api.create_commit(
        REPO,
        [CommitOperationAdd("head/config.json", b'{"a": 2}'), CommitOperationDelete("vocab.txt")],
        commit_message="second",
    ).oid
    texts = {}
    for revision in ("main", "v1", "pr/next", pushed, later):
        texts[revision] = pathlib.Path(
            api.hf_hub_download(REPO, "head/config.json", revision=revision, cache_dir=cache)
        ).read_text()
    assert texts == {
        "main": '{"a": 2}',
        "v1": '{"a": 1}',
        "pr/next": '{"a": 1}',
        pushed: '{"a": 1}',
        later: '{"a": 2}',
    }
    assert api.file_exists(REPO, "vocab.txt", revision=pushed) and not api.file_exists(REPO, "vocab.txt")
    assert (
        pathlib.Path(api.snapshot_download(REPO, revision=pushed, cache_dir=cache, allow_patterns="*.json")).name
        == pushed
    )
    assert [c.title for c in api.list_repo_commits(REPO)][0] == "second"
    assert {t.name: t.target_commit for t in api.list_repo_refs(REPO).tags} == {"v1": pushed}


def test_a_cached_snapshot_needs_no_server(hub, api, pushed, cache):
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(REPO, cache_dir=cache, local_files_only=True)
    online = api.snapshot_download(REPO, cache_dir=cache)
    before = len(hub.requests)
    assert api.snapshot_download(REPO, cache_dir=cache, local_files_only=True) == online
    assert api.hf_hub_download(REPO, "README.md", cache_dir=cache, local_files_only=True).startswith(online)
    assert len(hub.requests) == before


def test_absent_things_raise_their_own_exceptions(api, pushed, cache):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/absent")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("org/absent", "config.json", cache_dir=cache)
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="absent")
    with pytest.raises(RevisionNotFoundError):
        api.snapshot_download(REPO, revision="absent", cache_dir=cache)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "absent.json", cache_dir=cache)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "absent"))


def test_model_info_reads_the_card(api, pushed):
    info = api.model_info(REPO, files_metadata=True)
    assert (info.sha, info.library_name, info.pipeline_tag) == (pushed, "diffusers", "text-to-speech")
    assert info.card_data.base_model == "SWivid/F5-TTS" and "license:cc-by-nc-4.0" in info.tags
    assert {s.rfilename: s.size for s in info.siblings}["vocab.txt"] == 11_000


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (CARD.replace("cc-by-nc-4.0", "cc-by-non-commercial"), '"license" must be one of'),
        (CARD.replace("[f5-tts]", "f5-tts"), '"tags" must be an array'),
        (CARD.replace("[en, zh]", "[english]"), "ISO 639"),
        (CARD.replace("SWivid/F5-TTS", "a b/c"), "not a valid repository id"),
        (CARD.replace("[en, zh]", "[en, zh"), "could not be parsed"),
        (CARD.replace("language:", "model-index: [{name: x, results: [{}]}]\nlanguage:"), "task.type"),
    ],
)
def test_a_bad_card_is_refused_and_leaves_nothing(api, pushed, broken, message):
    with pytest.raises(ValueError, match=message):
        api.upload_file(repo_id=REPO, path_or_fileobj=broken.encode(), path_in_repo="README.md")
    assert api.model_info(REPO).sha == pushed
    # A client that does not ask first is refused by the commit itself.
    operation = {"key": "file", "value": {"path": "README.md", "content": base64.b64encode(broken.encode()).decode()}}
    answer = httpx.post(
        f"{api.endpoint}/api/models/{REPO}/commit/main",
        json=operation,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    assert answer.status_code == 400 and api.model_info(REPO).sha == pushed


def test_a_good_card_passes_and_a_missing_one_warns(api, pushed):
    card = ModelCard(CARD)
    card.data.license = "mit"
    api.upload_file(repo_id=REPO, path_or_fileobj=str(card).encode(), path_in_repo="README.md")
    assert api.model_info(REPO).card_data.license == "mit"
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(repo_id=REPO, path_or_fileobj=b"# No metadata", path_in_repo="README.md")


def test_writing_needs_the_token_and_private_repositories_hide(hub, api, cache):
    stranger = HfApi(endpoint=hub.url, token=False)
    for other in (stranger, HfApi(endpoint=hub.url, token="hf_wrong")):
        with pytest.raises(HfHubHTTPError) as refused:
            other.create_repo("org/mine")
        assert refused.value.response.status_code == 401
    api.create_repo("org/secret", private=True)
    assert api.model_info("org/secret").private
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info("org/secret")
    with pytest.raises(HfHubHTTPError):
        api.create_repo("org/secret")
    assert api.create_repo("org/secret", exist_ok=True).repo_id == "org/secret"
    api.delete_repo("org/secret")
    assert not api.repo_exists("org/secret")


def test_a_wrong_upload_and_a_stale_parent_are_refused(hub, api, pushed):
    digest = hashlib.sha256(b"announced").hexdigest()
    assert httpx.put(f"{hub.url}/lfs/{digest}", content=b"other").status_code == 400
    assert httpx.get(f"{hub.url}/lfs/{digest}").status_code == 404
    add = [CommitOperationAdd("a.txt", b"a")]
    api.create_commit(REPO, add, commit_message="x", parent_commit=pushed)
    with pytest.raises(HfHubHTTPError) as refused:
        add = [CommitOperationAdd("b.txt", b"b")]
        api.create_commit(REPO, add, commit_message="y", parent_commit=pushed)
    assert refused.value.response.status_code == 412 and not api.file_exists(REPO, "b.txt")


def test_ranges_are_served(hub, api, pushed, weights):
    url = f"{hub.url}/{REPO}/resolve/main/head/model.safetensors"
    for asked, expected in (
        ("bytes=10-19", weights[10:20]),
        ("bytes=299990-", weights[299990:]),
        ("bytes=-5", weights[-5:]),
    ):
        answer = httpx.get(url, headers={"Range": asked}, follow_redirects=True)
        assert (answer.status_code, answer.content) == (206, expected)
    assert httpx.get(url, headers={"Range": "bytes=300000-"}, follow_redirects=True).status_code == 416


def test_faults_strike_the_next_requests_only(hub, api, pushed, cache):
    hub.fail_next(2, matching=r"HEAD .*README\.md")
    with pytest.raises(HfHubHTTPError):
        api.file_exists(REPO, "README.md")
    with pytest.raises(HfHubHTTPError):
        api.file_exists(REPO, "README.md")
    assert api.file_exists(REPO, "README.md")


def test_a_download_survives_a_server_restart_on_the_same_folder(api, pushed, cache, tmp_path):
    with HubServer(tmp_path / "hub", token=TOKEN) as second:
        assert HfApi(endpoint=second.url, token=TOKEN).model_info(REPO).sha == pushed
        folder = HfApi(endpoint=second.url, token=TOKEN).snapshot_download(REPO, cache_dir=cache)
    assert (pathlib.Path(folder) / "head/config.json").exists()


def test_datasets_are_repositories_too(api, cache):
    api.create_repo("org/corpus", repo_type="dataset")
    api.upload_file(repo_id="org/corpus", repo_type="dataset", path_in_repo="data/0.parquet", path_or_fileobj=b"PAR1")
    path = api.hf_hub_download("org/corpus", "data/0.parquet", repo_type="dataset", cache_dir=cache)
    assert pathlib.Path(path).read_bytes() == b"PAR1"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/corpus")
