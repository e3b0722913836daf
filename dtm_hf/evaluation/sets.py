"""What a benchmark is run on."""

from dataclasses import dataclass

from dtm_hf.evaluation.metric import BenchmarkItem


@dataclass
class BenchmarkSet:
    """
    Sentences to speak, and the judges that fit them.

    Args:
        name (`str`): What it is called in the results.
        items (`list[BenchmarkItem]`): In their order; ids are unique.
        sampling_rate (`int`, defaults to 24000): Of all waveforms, in Hz.
        vocabulary (`list[str]`, *optional*): Lower-case words that the texts are made of, for a recogniser that is
            held to them.
        recognizer (`str`, defaults to `"pocketsphinx"`):
            `"pocketsphinx"`, `"whisper-large-v3"` or `"paraformer-zh"`.
        speaker_model (`str`, defaults to `"resemblyzer"`): `"resemblyzer"` or `"wavlm-large"`.
        language (`str`, defaults to `"en"`): Language of the texts.
    """

    name: str
    items: list[BenchmarkItem]
    sampling_rate: int = 24000
    vocabulary: list[str] | None = None
    recognizer: str = "pocketsphinx"
    speaker_model: str = "resemblyzer"
    language: str = "en"


def load_set(spec: str, limit: int | None = None, split: str = "validation") -> BenchmarkSet:
    """
    Read a set.

    Args:
        spec (`str`):
            A folder of parquet shards with a `corpus.json` beside them; a `.csv`, `.tsv` or `.jsonl` list with the
            columns `reference_audio`, `reference_text`, `text` and, where there is one, `recording`, paths relative to
            it; `seed-tts-en:FOLDER`, `seed-tts-zh:FOLDER` or `librispeech-pc:FOLDER`, a public list and its audio.
        limit (`int`, *optional*): Items at most, the first ones.
        split (`str`, defaults to `"validation"`): Of a folder of shards; the others have one.

    Raises:
        ValueError: for a spec of another form, and for a list or audio that cannot be used, naming file and line.
    """
    raise NotImplementedError
