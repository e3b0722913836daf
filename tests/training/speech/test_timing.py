"""The recipe of a backbone that is told when each character is spoken: an aligner, durations, the backbone."""

import json

import pytest
from tiny import SAMPLING_RATE, voice
from training_runs import LOOP, QUIET, flow_matching_arguments, write_corpus

from dtm_hf import DTMPipeline
from dtm_hf.training.train import main


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    corpus = write_corpus(folder / "corpus")
    shared = ["--dataset", str(corpus), *LOOP, *QUIET, "--vocab_file", str(corpus / "vocab.txt"), "--max_steps", "2"]
    small = ["--aligner_hidden_size", "16", "--output_dir", str(folder / "aligner")]
    main(["--objective", "alignment", *shared, *small])
    small = ["--durations_hidden_size", "16", "--durations_num_layers", "2", "--output_dir", str(folder / "durations")]
    main(["--objective", "durations", "--text_aligner", str(folder / "aligner"), *shared, *small])
    timing = ["--text_aligner", str(folder / "aligner"), "--token_durations", str(folder / "durations")]
    backbone = flow_matching_arguments(corpus, folder / "backbone", "--max_steps", "2", *timing)
    main(backbone)
    return folder


def test_the_result_speaks(recipe):
    pipeline = DTMPipeline.from_pretrained(recipe / "backbone")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.backbone.config.text_alignment == "durations"
    audio = pipeline("abc", (voice(1.0), SAMPLING_RATE), "def", num_inference_steps=1).audios[0]
    assert len(audio) > 0


def test_each_run_says_how_well_it_goes(recipe):
    for name, figure in (("aligner", "validation_loss_wrong_text"), ("durations", "validation_length_error")):
        lines = [json.loads(line) for line in (recipe / name / "log.jsonl").read_text().splitlines()]
        assert any(figure in line for line in lines), lines


def test_durations_need_an_aligner(tmp_path):
    with pytest.raises(SystemExit, match="`text_aligner` must be the folder"):
        main(["--objective", "durations", "--dataset", "corpus", "--output_dir", str(tmp_path)])
