"""`benchmarks/compare_heads.py`: two heads are trained on one backbone, judged alike and told apart."""

import re
import runpy
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from speech_corpora import row, write_parquet

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/compare_heads.py"))
RECIPE = (
    "model: {{head_hidden_size: {size}, head_num_layers: 1, head_architecture: conv}}\n"
    "data: {{frames_per_batch: 200, num_workers: 0}}\n"
    "objective: {{baked_guidance_scale: 2.0, num_inference_steps: 4}}\n"
    "optimization: {{max_steps: 2, warmup_steps: 1}}\n"
    "logging: {{report_to: none}}\n"
)


def test_two_heads_are_trained_and_compared(tiny_pipeline, tmp_path, monkeypatch, capsys):
    tiny_pipeline.save_pretrained(tmp_path / "model")
    corpus = tmp_path / "corpus"
    write_parquet(corpus, [row(i, 0.5 + 0.05 * i) for i in range(6)])
    write_parquet(corpus, [row(i, 1.2 + 0.05 * i) for i in range(4)], split="validation")
    (corpus / "corpus.json").write_text('{"vocabulary": ["clip"]}')
    configs = [tmp_path / "narrow.yaml", tmp_path / "wide.yaml"]
    for config, size in zip(configs, (16, 32), strict=True):
        config.write_text(RECIPE.format(size=size))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = [*map(str, configs), "--model", str(tmp_path / "model"), "--dataset", str(corpus), "--limit", "2"]
    SCRIPT["main"]([*argv, "--metrics", "mel", "--arm", "dtm-2x2", "-o", str(tmp_path / "out")])
    AcceleratorState._reset_state(reset_partial_state=True)
    narrow, wide, mel = capsys.readouterr().out.splitlines()[-3:]
    assert narrow.startswith("narrow: ") and wide.startswith("wide: ")
    sizes = [int(line.split(" s of CPU time, ")[1].split()[0].replace(",", "")) for line in (narrow, wide)]
    assert sizes[0] < sizes[1]
    number = r"-?\d+\.\d+"
    figures = re.findall(rf"(narrow|wide|worse by) {number} \[{number}, {number}\]", mel)
    assert figures == ["narrow", "wide", "worse by"], mel
    with pytest.raises(SystemExit):
        SCRIPT["main"]([str(configs[0]), *argv[:1], *argv[2:], "-o", str(tmp_path / "out")])
