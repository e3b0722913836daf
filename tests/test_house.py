"""The shape of the house: which room may import which, imports inside functions and for type checkers included."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where a folder lies when it is installed.
PACKAGES = {"dtm_hf": "dtm_hf", "scheduling": "dtm_hf.scheduling", "training": "dtm_hf.training"}
MAX_LINES = 400

# Single files that anyone may use; they use each other alone.
TOOLS = {
    "f5_import",
    "files",
    "hub_cache",
    "mean_mel",
    "pictures",
    "precision",
    "provenance",
    "reading",
    "validation",
    "weights",
}
NETWORKS = {"backbone", "codec", "frontend", "head", "speecht5", "trm", "vocoder"}
BELOW_PIPELINES = NETWORKS | TOOLS | {"hub", "scheduling"}
BELOW_TRAINING = BELOW_PIPELINES | {"evaluation", "pipelines"}
ROOMS = {"training.config", "training.data", "training.loop", "training.objectives"}

# A room, and what it may import beside itself.
ARROWS = {
    "scheduling": {"validation"},
    **dict.fromkeys(TOOLS, TOOLS),
    "hub": TOOLS,
    **dict.fromkeys(NETWORKS, TOOLS | {"hub"}),
    "pipelines": BELOW_PIPELINES,
    # Free of torch: of the rooms below, those files alone that are.
    "runtime": BELOW_PIPELINES | {"pipelines"},
    "ports": BELOW_PIPELINES | {"pipelines", "runtime"},
    "evaluation": BELOW_PIPELINES | {"pipelines"},
    "serving": BELOW_PIPELINES | {"pipelines", "runtime"},
    "app": BELOW_TRAINING | {"dtm_hf", "ports", "runtime", "serving"},
    "commands": BELOW_TRAINING | {"dtm_hf", "ports", "runtime", "serving", "app"},
    # A command of its own, under the launcher of Accelerate.
    "synthesize": BELOW_TRAINING | {"commands", "dtm_hf", "serving"},
    # What `import dtm_hf` exports and registers.
    "dtm_hf": BELOW_PIPELINES | {"pipelines", "ports", "runtime"},
    # Of the training: the ground floor knows no system.
    "training.config": set(),
    "training.data": {"training.config"},
    "training.objectives": {"training.config", "backbone", "precision", "scheduling"},
    "training.loop": {"training.config", "training.objectives", "files", "hub", "precision"},
    # Each kind of training stands by itself.
    "training.speech": ROOMS | BELOW_TRAINING,
    "training.mels": ROOMS | BELOW_TRAINING | {"training.speech"},
    "training.images": ROOMS | {"backbone", "files", "hub", "precision"},
    # Codes are of speech: its recordings, prompts and samples.
    "training.codes": ROOMS | BELOW_TRAINING | {"training.speech"},
    # Recordings alone, read as a codec's are.
    "training.vocoder": ROOMS | BELOW_TRAINING | {"training.speech", "training.codes"},
    "training.corpus": {"training.config", "training.data", "training.speech", "training.codes"}
    | {"codec", "evaluation", "files", "frontend", "reading", "synthesize"},
    "training": ROOMS
    | {"training.codes", "training.images", "training.mels", "training.speech", "training.vocoder", "files"},
}


def modules():
    """Path by module."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def room(module):
    """`training.loop` of `dtm_hf.training.loop.task`, `head` of `dtm_hf.head.modeling_dtm`, `hub` of `dtm_hf.hub`."""
    parts = module.split(".")[1:]
    if parts[:1] == ["training"]:
        return ".".join(parts[:2]) if len(parts) > 2 or MODULES[module].name == "__init__.py" else "training"
    return parts[0] if parts and not parts[0].startswith("_") else "dtm_hf"


def imports(path):
    """Modules of the project that a file imports, anywhere in it; a string that names one is an import to come."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*["dtm_hf"] * node.level, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value.split(":")[0]} if node.value.startswith("dtm_hf.") else set()
    return {name for name in names if name in MODULES and MODULES[name] != path}


MODULES = modules()
GRAPH = {module: imports(path) for module, path in MODULES.items()}


def test_no_two_files_import_each_other():
    # A package itself is imported with everything in it, and is no arrow.
    graph = {module: {name for name in names if name != "dtm_hf"} for module, names in GRAPH.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_rooms_import_what_lies_below_them():
    wrong = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        for name in names
        if room(name) != room(module) and room(name) not in ARROWS[room(module)]
    ]
    assert not wrong, wrong


def test_only_pipelines_bring_the_import_of_all_pipelines_about():
    """
    The end of `diffusers.pipelines.pipeline_utils` imports each pipeline of ours. Whoever imports it at its top and is
    used by a pipeline is then half a module: `import dtm_hf.pipelines.loading` alone ended in an error once.
    """
    for module, path in MODULES.items():
        if not module.startswith("dtm_hf.pipelines.") or module.startswith("dtm_hf.pipelines.pipeline_"):
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        tops = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {getattr(node, "module", None) or node.names[0].name for node in tops}
        assert not any(name.startswith("diffusers.pipelines") for name in names), path


def test_the_arrows_themselves_have_no_circle():
    graphlib.TopologicalSorter({name: below - {name} for name, below in ARROWS.items() if name not in TOOLS}).prepare()
    for name in ("training", *ROOMS):
        assert not [above for above, below in ARROWS.items() if name in below and not above.startswith("training")]


@pytest.mark.parametrize("folder", ["dtm_hf", "scheduling", "training", "tests", "benchmarks"])
def test_no_file_is_longer_than_one_idea(folder):
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def blocks_of_the_page():
    """The tree and the arrows, as `docs/architecture.md` shows them."""
    tree, arrows = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("```")[1::2]
    return tree.strip("\n").splitlines(), arrows.strip("\n").splitlines()


def test_the_page_shows_the_folders_that_there_are():
    shown, above = set(), []
    for line in blocks_of_the_page()[0]:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name.rstrip("/")]
        path = ROOT.joinpath(*above)
        assert path.is_dir() if name.endswith("/") else path.is_file(), f"docs/architecture.md: {line}"
        assert len(line.split()) > 1, f"docs/architecture.md says nothing of {name}"
        shown |= {path} if name.endswith("/") else set()
    there = {ROOT / folder for folder in (*PACKAGES, "docs")}
    for folder in [*there]:
        there |= {path for path in folder.rglob("*") if path.is_dir() and any(map(Path.is_file, path.iterdir()))}
    # A pipeline's folders are diffusers' affair.
    there = {path for path in there if "__pycache__" not in path.parts and path.parent.name != "assets"}
    there = {path for path in there if path.parent.parent.name != "assets"} | {ROOT / "dtm_hf/assets"}
    assert there - shown == set(), "docs/architecture.md leaves these out"


def test_the_arrows_of_the_page_are_among_those_above():
    for line in blocks_of_the_page()[1]:
        above, below = ([name.strip() for name in side.split(",")] for side in line.split("->"))
        assert all(set(below) <= ARROWS[name] for name in above), f"docs/architecture.md: {line}"
