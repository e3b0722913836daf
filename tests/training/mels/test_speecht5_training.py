"""A SpeechT5 is trained, stopped, resumed, saved and heard."""

import json

import numpy as np
import pytest
import torch
from tiny_speecht5 import tiny_speecht5, tokens
from training_runs import LOOP, QUIET, log, write_corpus

from dtm_hf import SpeakerTable, SpeechT5Pipeline
from dtm_hf.training.mels.task import new_network
from dtm_hf.training.objectives.speecht5 import SpeechT5Batch, SpeechT5Objective
from dtm_hf.training.train import main

SIZES = (
    "--speecht5_hidden_size 16 --speecht5_layers 1 --speecht5_heads 2 --speecht5_ffn_dim 16 --speecht5_prenet_units 8 "
    "--speecht5_postnet_units 8 --speaker_embedding_dim 8 --learning_rate 3e-3"
).split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def arguments(corpus, folder, *more):
    vocabulary = ["--vocab_file", str(corpus / "vocab.txt"), "--output_dir", str(folder)]
    return ["--objective", "speecht5", "--dataset", str(corpus), *LOOP, *QUIET, *SIZES, *vocabulary, *more]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    main(arguments(corpus, folder / "straight", "--max_steps", "6"))
    main(arguments(corpus, folder / "stopped", "--max_steps", "2"))
    main(arguments(corpus, folder / "stopped", "--max_steps", "6"))
    return folder


def test_it_learns_and_says_so(runs):
    losses = log(runs / "straight", "validation_loss")
    assert losses[6] < losses[2]
    lines = [json.loads(line) for line in (runs / "straight" / "log.jsonl").read_text().splitlines()]
    figures = {name for line in lines for name in line}
    assert {"mel", "attention", "validation_mel", "validation_attention", "validation_mel_wrong_text"} <= figures


def test_a_stopped_run_goes_on_to_the_bit(runs):
    straight, stopped = (log(runs / name, "loss") for name in ("straight", "stopped"))
    assert straight == stopped and len(straight) == 6


def test_the_result_speaks_in_the_voices_of_the_data(runs):
    pipeline = SpeechT5Pipeline.from_pretrained(runs / "straight")
    assert list(pipeline.speakers.vectors) == ["a"] and pipeline.speakers.size == 8
    audio = pipeline("hello", "a", max_ratio=3.0, generator=torch.Generator().manual_seed(0)).audios[0]
    assert pipeline.sampling_rate == 24000 and np.isfinite(audio).all() and len(audio) > 0
    config = pipeline.model.config
    assert config.license == "mit" and "6 steps" in config.training_data and config.num_mel_bins == 100


@pytest.mark.slow
def test_speakers_may_come_in_a_table(corpus, tmp_path):
    table = SpeakerTable({"a": torch.arange(1.0, 7.0), "never heard": torch.ones(6)})
    table.save_pretrained(tmp_path / "speakers")
    main(arguments(corpus, tmp_path / "run", "--max_steps", "1", "--speaker_table", str(tmp_path / "speakers")))
    pipeline = SpeechT5Pipeline.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(pipeline.speakers.vectors["a"], table.vectors["a"])
    assert pipeline.model.config.speaker_embedding_dim == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--speecht5_heads", "3"], "`speecht5_hidden_size` must be a multiple of `speecht5_heads`"),
        (["--base_model", "somewhere"], "trained from scratch"),
        (["--reduction_factor", "0"], "`reduction_factor`"),
        (["--speaker_table", "no/such/folder"], "no/such/folder"),
    ],
)
def test_what_cannot_be_trained_is_refused(corpus, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments(corpus, tmp_path / "run", *more))


def test_the_loss_is_that_of_transformers_and_ends_where_the_frames_do():
    model = tiny_speecht5(guided_attention_loss_num_heads=2)
    ids, mask = tokens(9, 6)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 20, 80, generator=generator)
    frames = torch.arange(20)[None] < torch.tensor([[20], [14]])
    batch = SpeechT5Batch(mel, frames, ids, mask, torch.randn(2, 16, generator=generator))
    found = SpeechT5Objective().loss(model, batch, torch.Generator().manual_seed(1))
    again = SpeechT5Objective().loss(model, batch, torch.Generator().manual_seed(1))
    assert found.loss == again.loss and found.figures.keys() == {"mel", "attention"}
    # What stands at padding is nobody's.
    other = SpeechT5Batch(mel.masked_fill(~frames[..., None], 7.0), frames, ids, mask, batch.speakers)
    torch.testing.assert_close(
        SpeechT5Objective().loss(model, other, torch.Generator().manual_seed(1)).loss, found.loss
    )


def test_the_diagonal_is_told_from_the_rest():
    frames, mask = torch.ones(1, 20, dtype=torch.bool), torch.ones(1, 10, dtype=torch.long)
    batch = SpeechT5Batch(torch.zeros(1, 20, 80), frames, mask, mask, torch.ones(1, 16))
    diagonal = torch.eye(10)[None, None]
    flat = torch.full((1, 1, 10, 10), 0.1)
    off = SpeechT5Objective.off_diagonal
    # The sharpest of the heads counts.
    assert off((torch.cat([flat, diagonal], dim=1),), batch) < 1e-6 < 0.1 < off((flat,), batch)


def test_a_new_network_hears_what_is_said_beside_where_it_stands():
    network = new_network(tiny_speecht5(initializer_range=0.3).config)
    prenet = network.speecht5.encoder.prenet
    characters, places = prenet.embed_tokens.weight.detach(), prenet.encode_positions.pe[0, :100]
    # As transformers begins them they are a fiftieth, or what `initializer_range` says.
    assert 0.9 < characters[3:].std() < 1.1 and 0.5 < places.std() < 0.8
    assert not characters[prenet.embed_tokens.padding_idx].any()


def test_its_layers_begin_as_wide_as_they_are(runs):
    assert SpeechT5Pipeline.from_pretrained(runs / "straight").model.config.initializer_range == 16**-0.5
