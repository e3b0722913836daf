"""Texts to WAVs while they are spoken: neither the sound of a long text nor its mels are held as a whole."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import say_note

if TYPE_CHECKING:
    import numpy as np

    from dtm_hf.pipelines.rows import SpeechRow
    from dtm_hf.runtime.contract import RowSpeaker

# Of the samples that wait, what is read at once.
_BLOCK_BYTES = 2**20


def spoken_texts(
    speaker: "RowSpeaker",
    rows: "Sequence[SpeechRow]",
    sources: Sequence[Any],
    batches: Iterable[range],
    **sampling: Any,
) -> "Iterator[Iterator[np.ndarray]]":
    """
    The sound of each text as a call of the whole gives it, in chunks `(T_i,)`, batch after batch; a text is to be
    heard to its end before the next is asked for.

    Args:
        speaker ([`~dtm_hf.runtime.contract.RowSpeaker`]): who speaks.
        rows (`list` of [`SpeechRow`]): of the texts, in their order.
        sources (`list`): what each row draws its noise from.
        batches (`list[range]`): which rows are sampled at once.
        sampling: as of the speaker's `sample`.
    """
    from dtm_hf.pipelines.streaming import fade_together

    def waves() -> "Iterator[tuple[int, np.ndarray]]":
        for batch in batches:
            some = [rows[index] for index in batch]
            mels = speaker.sample(some, generators=[sources[index] for index in batch], **sampling)
            for row, mel in zip(some, mels, strict=True):
                yield row.text_index, speaker.vocode(row, mel)

    for _, of_text in groupby(waves(), key=itemgetter(0)):
        yield fade_together((wave for _, wave in of_text), speaker.sampling_rate)


def write_wav(path: Path, waves: "Iterable[np.ndarray]", sampling_rate: int) -> int:
    """
    Write waveforms `(T_i,)`, one behind the other, as a WAV of 16 bits, and return how many samples they have. They
    may be hours: until the loudest is known, they wait on the disk.

    Raises:
        ValueError: if some are no numbers.
    """
    import numpy as np
    import soundfile

    from dtm_hf.serving.encoding import check_finite

    peak, count = 0.0, 0
    # Without a name, so that nothing is left of it wherever this ends.
    with tempfile.TemporaryFile(dir=path.parent) as waiting:
        for wave in waves:
            check_finite(wave)
            peak, count = max(peak, float(np.abs(wave).max(initial=0.0))), count + len(wave)
            waiting.write(np.ascontiguousarray(wave, dtype=np.float32))
        # 16 bits hold [-1, 1]; what is louder would be cut off.
        if peak > 1:
            say_note(f"lowered by {20 * np.log10(peak):.1f} dB to fit into 16 bits")
        waiting.seek(0)
        with soundfile.SoundFile(path, "w", sampling_rate, 1, format="WAV", subtype="PCM_16") as file:
            while block := waiting.read(_BLOCK_BYTES):
                samples = np.frombuffer(block, dtype=np.float32)
                file.write(samples / peak if peak > 1 else samples)
    return count
