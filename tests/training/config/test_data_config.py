"""How sources are written in a configuration, and what is refused."""

import pytest

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.systems import parse_config

SOURCES = """
model:
  base_model: some/pipeline
data:
  sources:
    - dataset: amphion/Emilia
      config: EN
      revision: v1
      format: webdataset
      weight: 3
      audio_column: mp3
      text_column: json.text
      speaker_column: json.speaker
    - dataset: corpus/own
      speaker_column: null
"""


@pytest.fixture
def parse(tmp_path):
    def parse(text, *argv):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return parse_config(["--config", str(path), *argv]).data

    return parse


def test_several_sources(parse):
    emilia = SourceArguments(
        dataset="amphion/Emilia",
        format="webdataset",
        weight=3.0,
        config="EN",
        revision="v1",
        audio_column="mp3",
        text_column="json.text",
        speaker_column="json.speaker",
    )
    own = SourceArguments(dataset="corpus/own", speaker_column=None)
    assert parse(SOURCES).all_sources() == [emilia, own]


def test_the_short_form():
    argv = ["--base_model", "b", "--dataset", "org/speech", "--dataset_config", "en", "--dataset_revision", "v2"]
    argv += ["--dataset_format", "parquet", "--audio_column", "flac", "--text_column", "said"]
    (source,) = parse_config(argv).data.all_sources()
    columns = {"audio_column": "flac", "text_column": "said"}
    assert source == SourceArguments("org/speech", "parquet", config="en", revision="v2", **columns)


def test_sources_on_the_command_line():
    data = parse_config(["--base_model", "b", "--sources", "corpus/a", "corpus/b"]).data
    assert data.all_sources() == [SourceArguments("corpus/a"), SourceArguments("corpus/b")]
    assert DataArguments().sources is not DataArguments().sources


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("weigth: 2", r"data\.sources\[1\]: unknown key 'weigth'; did you mean 'weight'"),
        ("weight: much", r"data\.sources\[1\]\.weight must be of type float, but got 'much'"),
        ("weight: 0", r"`weight` of 'corpus/own' must be greater than 0, but got 0\.0"),
        ("weight: .inf", "`weight` of 'corpus/own' must be greater than 0, but got inf"),
        ("text_column: null", r"data\.sources\[1\]\.text_column must be of type str, but got None"),
        (
            "format: webdatset",
            "format of 'corpus/own' must be one of .* but got 'webdatset'; did you mean 'webdataset'",
        ),
    ],
)
def test_what_a_source_may_not_say(parse, entry, message):
    with pytest.raises(ValueError, match=message):
        parse(SOURCES + f"      {entry}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  sources: corpus\n", r"data\.sources must be a list, but got 'corpus'"),
        ("data:\n  sources: [corpus]\n", r"data\.sources\[0\] must be a mapping, but got 'corpus'"),
        ("data:\n  sources:\n    - weight: 2.0\n", r"data\.sources\[0\] must have a 'dataset'"),
        ("data:\n  sources: []\n", "`sources` list several, but got neither"),
        (SOURCES + "  dataset: corpus\n", "`dataset` must .* but got 'corpus' and 2 `sources`"),
        (SOURCES + "  text_column: said\n", "`text_column` belongs to `dataset`; with `sources`, give it in each"),
        (SOURCES + "  max_bad_fraction: 2\n", r"`max_bad_fraction` must lie in \[0, 1\], but got 2\.0"),
    ],
)
def test_what_a_file_may_not_say(parse, text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_pairs_need_a_speaker_in_one_of_the_sources(parse):
    assert parse(SOURCES, "--pair_probability", "0.5").pair_probability == 0.5
    silent = SOURCES.replace("json.speaker", "null")
    with pytest.raises(ValueError, match="`pair_probability`.*`speaker_column`"):
        parse(silent, "--pair_probability", "0.5")
