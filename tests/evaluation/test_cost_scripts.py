"""`benchmarks/speed.py` and `benchmarks/training_cost.py`: the sizes of what is shipped, and that they run."""

import importlib
import json
import re
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from dtm_hf import DTMHeadConfig, F5Backbone, F5Tokenizer
from dtm_hf.backbone.f5_checkpoint import default_vocab
from dtm_hf.commands.models import EMBEDDED

SHAPE = (
    "architecture prediction backbone_hidden_size num_mel_bins hidden_size num_hidden_layers ffn_mult residual_layers "
    "num_attention_heads attention_head_dim qk_norm pe_attn_head guidance_scale_range guidance_end sampler"
).split()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module


def test_the_embedded_size_is_that_of_the_embedded_model(script):
    """Its head by the recipe, which is therefore the one that made it."""
    sizes = script("model_sizes")
    backbone = sizes.random_backbone("embedded", 100)
    shipped = F5Backbone(**json.loads((EMBEDDED / "backbone" / "config.json").read_text()) | {"text_num_embeds": 100})
    assert [p.shape for p in backbone.parameters()] == [p.shape for p in shipped.parameters()]
    made, config = sizes.random_head("embedded", backbone).config, DTMHeadConfig.from_pretrained(EMBEDDED / "head")
    assert {name: getattr(made, name) for name in SHAPE} == {name: getattr(config, name) for name in SHAPE}


def figures(line):
    """Passes, and the two ratios."""
    return [float(number) for number in re.findall(r"(\d+\.\d\d) (?:passes|x)", line)]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["guidance", "drawing"])
def test_steps_are_counted_in_passes(script, head, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = "--frames 1200 --utterance-frames 300 --repeats 1 --run-steps 1 --workers 0 --counts 4 8".split()
    script("training_cost").main([*argv, "--head", head])
    AcceleratorState._reset_state(reset_partial_state=True)
    one, first, second, *rest = capsys.readouterr().out.splitlines()[1:]
    assert figures(one) == [1, 1, 1]
    # Walks end where guidance does, at t = 0.15 of the embedded model.
    expected = {"guidance": ("T=4", 3, "T=8", 5), "drawing": ("k=4", 2, "k=8", 2)}[head]
    assert expected[0] in first and figures(first)[0] == expected[1]
    assert expected[2] in second and figures(second)[0] == expected[3]
    assert figures(second)[2] > expected[3]
    assert rest[-1].startswith("training command, 1 steps: ")


def test_memory_is_counted(script, capsys):
    script("training_cost").main("--count-memory --frames 1000 --utterance-frames 100".split())
    text = capsys.readouterr().out
    saving, keeping = (float(number) for number in re.findall(r"kept by autograd (\d+\.\d+)", text))
    assert 0 < saving < keeping


@pytest.mark.slow
def test_every_way_to_sample_is_timed(script, capsys):
    speed = script("speed")
    speed.main("--seconds 0.5 --repeats 1 --warmup 0 --divide-steps 16".split())
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [re.split(r" +\d+\.\d{3} s", line)[0] for line in lines] == list(speed.ARMS)


def test_full_size_is_that_of_the_official_model(script):
    sizes = script("model_sizes")
    backbone = sizes.random_backbone("full", F5Tokenizer(default_vocab()).vocab_size)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 337_096_804
