"""The recipes of docs/extending.md, followed: its files put in their places, its lines added to the tables."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import dtm_hf
from dtm_hf import DTMPipeline, DTMScheduler, _registration
from dtm_hf.scheduling import time_grids

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# dtm_hf/(\S+)\.py\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def put_in_place(tmp_path, monkeypatch):
    """Writes a file of the page where the page says, in folders that lie over those of the package; imports it."""
    modules = set(sys.modules)

    def put(name):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(FILES[name], encoding="utf-8")
        package = importlib.import_module(f"dtm_hf.{path.parent.name}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
        module = f"dtm_hf.{name.replace('/', '.')}"
        assert module in PAGE or path.parent.name == "scheduling"
        return importlib.import_module(module)

    yield put
    for module in set(sys.modules) - modules:
        if hasattr(sys.modules[module], "__file__") and str(tmp_path) in str(sys.modules[module].__file__):
            del sys.modules[module]


@pytest.fixture
def add_lines(monkeypatch):
    """The two lines of a component, which the page gives."""
    from diffusers.pipelines import pipeline_loading_utils as tables

    def add(name, module):
        assert f'The lines: `"{name}": "{module}"` and `"{name}"`' in PAGE
        monkeypatch.setitem(dtm_hf._MODULES, name, module)
        monkeypatch.setattr(_registration, "_COMPONENTS", (*_registration._COMPONENTS, name))
        _registration.register_with_diffusers()

    yield add
    monkeypatch.undo()
    for table in (tables.LOADABLE_CLASSES["dtm_hf"], tables.ALL_IMPORTABLE_CLASSES, vars(dtm_hf)):
        for name in ("HumVocoder", "LinearHead"):
            table.pop(name, None)


def speak(pipeline, reference_audio, **options):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline("hello", str(reference_audio), "what is said", generator=generator, **options).audios[0]


def test_a_grid(put_in_place, monkeypatch):
    quadratic = put_in_place("scheduling/quadratic")
    assert 'The line: `"quadratic": quadratic_grid`' in PAGE
    monkeypatch.setitem(time_grids.TIME_GRIDS, "quadratic", quadratic.quadratic_grid)
    scheduler = DTMScheduler(num_inference_steps=4, time_grid="quadratic")
    torch.testing.assert_close(scheduler.timesteps, torch.tensor([0.0, 1.0, 4.0, 9.0]) / 16)
    assert DTMScheduler.from_config(scheduler.config).config.time_grid == "quadratic"


def test_a_vocoder(put_in_place, add_lines, tiny_pipeline, reference_audio, tmp_path):
    HumVocoder = put_in_place("vocoder/vocoder_hum").HumVocoder
    add_lines("HumVocoder", "dtm_hf.vocoder.vocoder_hum")
    tiny_pipeline.register_modules(vocoder=HumVocoder(pitch=200.0))
    expected = speak(tiny_pipeline, reference_audio)
    tiny_pipeline.save_pretrained(tmp_path / "model")
    loaded = DTMPipeline.from_pretrained(tmp_path / "model")
    assert type(loaded.vocoder) is dtm_hf.HumVocoder and loaded.vocoder.config.pitch == 200
    # Random weights are loud.
    assert abs(speak(loaded, reference_audio) - expected).max() < 1e-4 * abs(expected).max()
    assert expected.std() > 1e-4


def test_a_head(put_in_place, add_lines, tiny_pipeline, reference_audio, tmp_path):
    linear = put_in_place("head/modeling_linear")
    add_lines("LinearHead", "dtm_hf.head.modeling_linear")
    head = linear.LinearHead(linear.LinearHeadConfig(backbone_hidden_size=64)).eval()
    tiny_pipeline.register_modules(head=head)
    # Untrained it is plain Euler.
    euler = speak(tiny_pipeline, reference_audio, num_head_steps=0, output_type="mel")
    assert abs(speak(tiny_pipeline, reference_audio, output_type="mel") - euler).max() < 1e-3
    with torch.no_grad():
        head.state_proj.weight.copy_(0.1 * torch.eye(100))
    expected = speak(tiny_pipeline, reference_audio, output_type="mel")
    assert abs(expected - euler).max() > 1e-2
    tiny_pipeline.save_pretrained(tmp_path / "model")
    loaded = DTMPipeline.from_pretrained(tmp_path / "model")
    assert type(loaded.head) is dtm_hf.LinearHead
    assert abs(speak(loaded, reference_audio, output_type="mel") - expected).max() < 1e-4


def test_every_file_of_the_page_is_followed():
    assert set(FILES) == {"scheduling/quadratic", "vocoder/vocoder_hum", "head/modeling_linear"}
    root = Path(__file__).parents[1]
    for name in re.findall(r"`((?:dtm_hf|scheduling|training|tests)/[\w/]+(?:\.py|/))`", PAGE):
        assert "NAME" in name or (root / name).exists(), name
