"""The wheel and the editable install put scheduling and training inside dtm_hf, and nothing beside it."""

import ast
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import soundfile

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"dtm_hf": "dtm_hf", "dtm_hf.scheduling": "scheduling", "dtm_hf.training": "training"}


def packages_in_the_tree():
    found = set()
    for package, folder in MAPPED.items():
        for file in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *file.parent.relative_to(ROOT / folder).parts]))
    return found


def test_the_listed_packages_are_those_of_the_tree():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_the_tree()
    assert PROJECT["tool"]["setuptools"]["package-dir"] == MAPPED


# No extra brings them: two that only a published Chinese table needs, a tracker that a run names or does not, and the
# software of cards that asks for another Python and another numpy.
UNDECLARED = {"funasr", "zhconv", "wandb", "ttnn"}


def declared(requirements):
    return {re.match(r"[\w.-]+", text).group().lower().replace("_", "-") for text in requirements}


def test_what_is_imported_is_declared():
    """By the package or an extra: that another package happens to bring it may end with its next version."""
    extras = PROJECT["project"]["optional-dependencies"]
    always = declared(PROJECT["project"]["dependencies"])
    ever = always.union(*(declared(texts) for name, texts in extras.items() if name != "dev"))
    providers = importlib.metadata.packages_distributions()
    found = set()
    for folder in MAPPED.values():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                absolute = isinstance(node, ast.ImportFrom) and node.level == 0
                names = (
                    [node.module] if absolute else [a.name for a in node.names] if isinstance(node, ast.Import) else []
                )
                found |= {(name.split(".")[0], path.relative_to(ROOT).as_posix()) for name in names}
    undeclared = {
        (name, path)
        for name, path in found
        if name not in sys.stdlib_module_names | {"dtm_hf"} | UNDECLARED
        and not {each.lower().replace("_", "-") for each in providers.get(name, [name])} & ever
    }
    assert not undeclared
    assert {"scipy", "pyarrow", "pillow", "httpx"} <= always
    assert "librosa" in declared(extras["train"]) & declared(extras["eval"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy: a build leaves folders behind in its source."""
    source = tmp_path_factory.mktemp("source") / "tree"
    source.mkdir()
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in MAPPED.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=junk)
    for name in ("pyproject.toml", "README.md", "LICENSE", "model_card.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    subprocess.run(build, cwd=source, check=True, capture_output=True, text=True)
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


def test_the_wheel_alone_speaks(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = (
        "import dtm_hf.scheduling, dtm_hf.training.corpus, dtm_hf.commands.main as main\n"
        "print(main.__file__, dtm_hf.scheduling.__file__, dtm_hf.training.corpus.__file__, flush=True)\n"
        "main.app(['demo', '-o', 'demo.wav'])"
    )
    # In a folder without the repository; what is unpacked goes before what is installed to be edited.
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}
    spoken = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert spoken.returncode == 0, spoken.stderr
    modules = spoken.stdout.splitlines()[0].split()
    assert [path for path in modules if not path.startswith(str(tmp_path / "installed"))] == []
    assert soundfile.info(tmp_path / "demo.wav").duration > 1


def test_the_wheel_is_as_large_as_is_said(wheel):
    (said,) = re.findall(r"the wheel with it has (\d+)", (ROOT / "README.md").read_text())
    assert abs(wheel.stat().st_size / 1e6 - int(said)) < 1


def test_the_wheel_holds_every_module_and_data_file_and_one_top_level_package(wheel):
    wheel_names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"dtm_hf", f"dtm_hf-{PROJECT['project']['version']}.dist-info"}
    expected = set()
    for package, folder in MAPPED.items():
        for pattern in ("**/*.py", "py.typed", "*.md", "assets/**/*", "configs/*", "evaluation/*.txt", "app/*.js"):
            for file in (ROOT / folder).glob(pattern):
                if file.is_file() and "__pycache__" not in file.parts:
                    expected.add(f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}")
    assert expected <= wheel_names, sorted(expected - wheel_names)
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_the_installed_package_maps_both_folders_and_leaks_neither():
    script = (
        "import importlib.util as u; find = u.find_spec\n"
        "print(find('dtm_hf.scheduling').origin); print(find('dtm_hf.training').origin)\n"
        "print(find('scheduling')); print(find('training'))"
    )
    # -I: neither the current folder nor PYTHONPATH may help.
    lines = subprocess.run(
        [sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert lines[:2] == [str(ROOT / "scheduling/__init__.py"), str(ROOT / "training/__init__.py")]
    assert lines[2:] == ["None", "None"]


def test_the_lock_is_exact_versions_and_nothing_else():
    lines = (ROOT / "requirements/lock.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.!]+", line)] == []
    assert lines == sorted(lines, key=str.lower)
    locked = dict(line.split("==") for line in lines)
    pins = {"torch": "2.11.0", "torchaudio": "2.11.0", "f5-tts": "1.1.22", "diffusers": "0.42.1"}
    assert {name: locked.get(name) for name in pins} == pins
    project = PROJECT["project"]
    requirements = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {re.match(r"[A-Za-z0-9._-]+", requirement).group().lower() for requirement in requirements} - {"dtm-hf"}
    # A fifth of a gigabyte for a second runtime of ports: its tests are skipped where it is not installed.
    names -= {"openvino"}
    assert names <= set(locked), sorted(names - set(locked))
