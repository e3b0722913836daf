"""Each block of Python and shell in the documents is run on the embedded model, or says above it why it is not."""

import itertools
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import hub_of_this_process
from typer.testing import CliRunner

from dtm_hf.commands import main as speech
from dtm_hf.synthesize import __main__ as synthesize
from dtm_hf.training.corpus import __main__ as corpus
from dtm_hf.training.speech import durations
from dtm_hf.training.systems import parse_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "training/corpus/README.md"]
EMBEDDED = ROOT / "dtm_hf/assets/dtm-f5-voice"
MARK = re.compile(r"<!-- not run: .+ -->")
# Command lines that run in this process.
APPS = {
    ("dtm-hf",): speech.app,
    ("python", "-m", "dtm_hf.training.corpus"): corpus.app,
    ("python", "-m", "dtm_hf.training.durations"): durations.app,
    ("python", "-m", "dtm_hf.synthesize"): synthesize.app,
}


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` as behind the fence, and the line above it."""

    document: Path
    line: int
    language: str
    text: str
    above: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def marked(self) -> bool:
        return MARK.fullmatch(self.above) is not None

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(document):
    lines = iter(enumerate(document.read_text(encoding="utf-8").splitlines(), start=1))
    above = ""
    for number, line in lines:
        if line.startswith("```"):
            inside = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                inside.append(inner)
            yield Block(document, number, line[3:], "\n".join(inside), above)
        above = line


BLOCKS = [block for document in DOCUMENTS for block in blocks(document) if block.language in ("python", "sh")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with what the documents take for granted, and a Hub that holds the embedded model as `org/dtm-f5`."""
    from dtm_hf import DTMPipeline

    folder = tmp_path_factory.mktemp("workspace")
    for name in ("dtm_hf", "training"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(EMBEDDED / "reference-heart.wav", folder / "voice.wav")
    (folder / "my-voices").mkdir()
    for suffix in ("wav", "txt"):
        shutil.copy(EMBEDDED / f"reference-heart.{suffix}", folder / f"my-voices/anna.{suffix}")
    (folder / "runs").mkdir()
    (folder / "runs/tdm_tiny").symlink_to(EMBEDDED)
    (folder / "runs/durations").symlink_to(EMBEDDED / "duration_predictor")
    with hub_of_this_process(folder / "hub"):
        DTMPipeline.from_pretrained(EMBEDDED).push_to_hub("org/dtm-f5")
        yield folder


def app_of(command):
    """The command line of a command, and what is told to it."""
    # Behind the variables of the environment.
    words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), command))
    words[0] = Path(words[0]).name
    if words[:2] == ["accelerate", "launch"] and "-m" in words:
        words = ["python", *words[words.index("-m") :]]
    for name, app in APPS.items():
        if tuple(words[: len(name)]) == name:
            return app, words[len(name) :]
    return None, words


def accept(command):
    """That a command which is not run has no option that there is not."""
    app, words = app_of(command)
    if app is not None:
        # Before other options of the whole, of which some do at once what they are for.
        whole = not words or words[0].startswith("-")
        result = CliRunner().invoke(app, ["--help", *words] if whole else [*words, "--help"])
        assert result.exit_code == 0, result.output
    # `f5-head.yaml` is written by another command: training/test_full_size.py walks that document in order.
    elif words[:2] == ["accelerate", "launch"] and "f5-head.yaml" not in words:
        parse_config(words[words.index("training/train.py") + 1 :])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words[1]


def run(command):
    app, words = app_of(command)
    assert app is not None, f"{shlex.join(command)} needs a mark `<!-- not run: ... -->`"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_or_says_why_not(block, workspace, monkeypatch):
    if block.marked:
        monkeypatch.chdir(ROOT)
        for command in block.commands if block.language == "sh" else ():
            accept(command)
        return
    monkeypatch.chdir(workspace)
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), {})
    else:
        for command in block.commands:
            run(command)


def test_some_blocks_run_and_none_is_of_another_kind():
    assert {block.language for block in BLOCKS if not block.marked} == {"python", "sh"}
    kinds = {block.language for document in DOCUMENTS for block in blocks(document)}
    assert kinds <= {"python", "sh", "yaml", "csv", ""}


def test_links_lead_somewhere():
    def anchors(page):
        titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            page = (document.parent / name).resolve() if name else document
            assert page.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(page), f"{document.name}: {target}"
