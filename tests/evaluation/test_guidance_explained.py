"""`benchmarks/guidance_explained.py`: the table of how much of guidance a head explains."""

import runpy
from pathlib import Path

import pytest
from speech_corpora import row, write_parquet
from tiny import MEAN_MEL

from dtm_hf import DTMPipeline

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/guidance_explained.py"))


def test_an_untrained_head_explains_what_the_closed_form_does(tiny_pipeline, make_guidance_head, tmp_path, capsys):
    parts = tiny_pipeline.components | {"head": make_guidance_head("conv")}
    DTMPipeline(**parts, mean_mel=MEAN_MEL).save_pretrained(tmp_path / "model")
    corpus = tmp_path / "corpus"
    write_parquet(corpus, [row(i, 1.2 + 0.05 * i) for i in range(4)], split="validation")
    (corpus / "corpus.json").write_text('{"vocabulary": ["clip"]}')
    SCRIPT["main"](["--model", str(tmp_path / "model"), "--dataset", str(corpus), "--limit", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 sentences, guidance 3, 4 steps"
    cells = [[float(cell) for cell in line.strip("| ").split(" | ")] for line in lines[-4:]]
    assert [round(t, 3) for t, *_ in cells] == [0.0, 0.076, 0.293, 0.617]
    assert all(moved > 0 for _, moved, *_ in cells)
    assert cells[0][2] == cells[0][3] != 0
    assert all(closed == 0 and abs(head) < 2e-3 for _, _, closed, head in cells[1:])
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--model", str(tmp_path / "model"), "--dataset", str(corpus), "--scale", "1"])
