"""The site of docs/: every page in it, no link that leads nowhere, and the API from docstrings."""

from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Strict: a warning ends the build.
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def test_every_page_is_in_the_site_and_asks_nothing_of_other_hosts(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in pages if not (site / name / "index.html").is_file()} == set()
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "F5-TTS needs 64 network passes" in first
    assert 'src="http' not in first and "fonts.googleapis" not in first


def test_the_api_holds_docstrings(site):
    page = (site / "api/index.html").read_text(encoding="utf-8")
    for told in ("DTMPipeline", "DTMScheduler", "Speaks text in the voice of a recording", "num_inference_steps"):
        assert told in page
