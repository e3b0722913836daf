"""`benchmarks/guidance_explained.py`: the table of how much of guidance a head explains."""

import runpy
from pathlib import Path

import pytest
from speech_corpora import row, write_parquet
from tiny import MEAN_MEL, randomise

from dtm_hf import DTMPipeline, Student, StudentConfig
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/guidance_explained.py"))


def table(capsys) -> tuple[str, list[list[float]]]:
    lines = capsys.readouterr().out.splitlines()
    return lines[0], [[float(cell) for cell in line.strip("| ").split(" | ")] for line in lines[-4:]]


def write_sentences(corpus: Path) -> None:
    write_parquet(corpus, [row(i, 1.2 + 0.05 * i) for i in range(4)], split="validation")
    (corpus / "corpus.json").write_text('{"vocabulary": ["clip"]}')


def test_an_untrained_head_explains_what_the_closed_form_does(tiny_pipeline, make_guidance_head, tmp_path, capsys):
    parts = tiny_pipeline.components | {"head": make_guidance_head("conv")}
    DTMPipeline(**parts, mean_mel=MEAN_MEL).save_pretrained(tmp_path / "model")
    corpus = tmp_path / "corpus"
    write_sentences(corpus)
    SCRIPT["main"](["--model", str(tmp_path / "model"), "--dataset", str(corpus), "--limit", "2"])
    about, cells = table(capsys)
    assert about == "2 sentences, guidance 3, 4 steps"
    assert [round(t, 3) for t, *_ in cells] == [0.0, 0.076, 0.293, 0.617]
    assert all(moved > 0 for _, moved, *_ in cells)
    assert cells[0][2] == cells[0][3] != 0
    assert all(closed == 0 and abs(head) < 2e-3 for _, _, closed, head in cells[1:])
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--model", str(tmp_path / "model"), "--dataset", str(corpus), "--scale", "1"])


def test_adapters_are_asked_beside_it(tiny_pipeline, make_backbone, tmp_path, capsys):
    """Untrained ones change nothing and so explain nothing; others do until the time that they end at."""
    DTMPipeline(**tiny_pipeline.components | {"head": None}, mean_mel=MEAN_MEL).save_pretrained(tmp_path / "model")
    write_sentences(tmp_path / "corpus")
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(4,))
    sampler = {"num_inference_steps": 4, "time_grid": "sway", "sway_coefficient": -1.0}
    names = {"backbone_name": "tiny", "backbone_fingerprint": tiny_pipeline.backbone.fingerprint, "license": "mit"}
    options = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "corpus"), "--limit", "1"]
    for changed in (False, True):
        if changed:
            randomise(networks.trained["student"], 0)
        config = StudentConfig(networks.rank, networks.alpha, [4], sampler, adapted_until=0.25, **names)
        Student(config, networks.state()).save_pretrained(tmp_path / "student")
        SCRIPT["main"]([*options, "--student", str(tmp_path / "student")])
        student = [row[-1] for row in table(capsys)[1]]
        assert [value != 0 for value in student] == [changed, changed, False, False]
