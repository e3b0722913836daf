"""The folder of a benchmark: what is read back, what is refused, what a killed process leaves."""

import numpy as np
import pytest

from dtm_hf.evaluation.records import Records

SETTINGS = {"model": "tiny", "seed": 1}


def test_figures_are_read_back_and_the_later_line_wins(tmp_path):
    records = Records(tmp_path / "new" / "run", SETTINGS)
    records.append("euler-4", "a", 0, {"wer": (1, 7), "mos": None})
    records.append("euler-4", "a", 0, {"mel": (2.5, 1.0)})
    records.append("euler-4", "b", 1, {"wer": (3, 5)})
    again = Records(tmp_path / "new" / "run", SETTINGS)
    for found in (records, again):
        numerators, denominators = found.figures("euler-4", "wer", ["a", "b"], [0, 1])
        np.testing.assert_array_equal(numerators, [[1, np.nan], [np.nan, 3]])
        np.testing.assert_array_equal(denominators, [[7, np.nan], [np.nan, 5]])
        assert found.missing("euler-4", "a", 0, ["wer", "mos", "mel", "pitch"]) == ["pitch"]
        assert found.missing("euler-8", "a", 0, ["wer"]) == ["wer"]


def test_a_line_that_a_killed_process_left_is_dropped(tmp_path):
    records = Records(tmp_path, SETTINGS)
    records.append("euler-4", "a", 0, {"wer": (1, 7)})
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"arm": "euler-4", "item": "b", "se')
    again = Records(tmp_path, SETTINGS)
    assert again.missing("euler-4", "b", 0, ["wer"]) == ["wer"]
    again.append("euler-4", "b", 0, {"wer": (2, 7)})
    assert Records(tmp_path, SETTINGS).figures("euler-4", "wer", ["a", "b"], [0])[0].tolist() == [[1], [2]]


def test_other_settings_are_refused(tmp_path):
    Records(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="`output` .* with model 'tiny', but this one has 'other'"):
        Records(tmp_path, SETTINGS | {"model": "other"})


def test_a_setting_that_was_of_no_matter_yet_is_filled_in(tmp_path):
    Records(tmp_path, SETTINGS | {"head": None})
    Records(tmp_path, SETTINGS | {"head": "00ff"})
    Records(tmp_path, SETTINGS | {"head": None})
    with pytest.raises(ValueError, match="`output` .* with head '00ff', but this one has '11ee'"):
        Records(tmp_path, SETTINGS | {"head": "11ee"})


def test_a_mel_is_used_as_it_will_be_read_back(tmp_path):
    records = Records(tmp_path, SETTINGS)
    mel = np.random.default_rng(0).normal(-2, 2, (7, 100)).astype(np.float32)
    assert records.mel("noise-7:0.1", 3, 0) is None
    kept = records.write_mel("noise-7:0.1", 3, 0, mel)
    np.testing.assert_array_equal(records.mel("noise-7:0.1", 3, 0), kept)
    np.testing.assert_allclose(kept, mel, atol=4e-3)
    assert not list(tmp_path.rglob("*:*"))
