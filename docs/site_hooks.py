"""What `make docs` does to the pages: the README is the first, sounds are heard, other files are named only."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config):
    """Pages that the navigation does not name come last in it, lest they are not found."""
    named = str(config.nav)
    more = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if f"'{path.name}'" not in named)
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files, config):
    """The README as `index.md`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=re.sub(r"\]\(docs/", "](", text)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository that are not pages become their names."""

    def named(match):
        mark, text, target = match.groups()
        if target.startswith(("http", "#", "mailto:")):
            return match[0]
        path = target.partition("#")[0]
        if path.endswith(".ogg"):
            heard = files.get_file_from_path(path).url_relative_to(page.file)
            return f'<audio controls preload="none" src="{heard}"></audio>'
        inside = (Path(config.docs_dir) / path).resolve()
        if inside.is_file() and inside.is_relative_to(config.docs_dir):
            return match[0]
        # The README lies a folder above.
        base = ROOT if page.file.src_uri == "index.md" else ROOT / "docs"
        if not (base / path).exists():
            raise ValueError(f"{page.file.src_uri}: {target} leads nowhere.")
        return f"{text} (`{(base / path).resolve().relative_to(ROOT)}`)" if not mark else text

    return _LINK.sub(named, markdown)
