"""The rows of a shard, spoken in batches that the plan alone decides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines.batching import split_batches
from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.serving.encoding import check_finite
from dtm_hf.serving.pipeline_speaker import PipelineSpeaker
from dtm_hf.synthesize.plan import PlannedRow
from dtm_hf.synthesize.sources import SourceVoice

# Rows among which those of about one length are looked for.
_WINDOW = 64
_ONE_BATCH = 2**31


@dataclass(frozen=True, eq=False)
class SpokenRow:
    """What became of a row: samples `(T,)`, or why there are none."""

    row: PlannedRow
    audio: np.ndarray | None = None
    error: str | None = None


def speak_rows(
    speaker: PipelineSpeaker,
    rows: Sequence[PlannedRow],
    voices: Mapping[str, SourceVoice],
    sampling: dict[str, Any],
    max_batch_frames: int,
    done: Any = (),
) -> Iterator[SpokenRow]:
    """
    Speak what is missing of a shard.

    A row is always in the same batch, whatever was done before: to the bit, a batch is what it is by those that are in
    it.

    Args:
        speaker ([`PipelineSpeaker`]): who speaks.
        rows (sequence of [`PlannedRow`]): of the whole shard, in its order.
        voices (`dict` of [`SourceVoice`]): by name.
        sampling (`dict`): as of [`~DTMPipeline.sample`].
        max_batch_frames (`int`): frames that are sampled at once, padding included; with 1 each chunk by itself.
        done (container of `int`): ids of rows that need not be spoken.

    Yields:
        [`SpokenRow`]: in the order in which they are ready.
    """
    for start in range(0, len(rows), _WINDOW):
        window = rows[start : start + _WINDOW]
        if any(row.id not in done for row in window):
            yield from _speak_window(speaker, window, voices, sampling, max_batch_frames, done)


def _speak_window(speaker, window, voices, sampling, max_batch_frames, done) -> Iterator[SpokenRow]:
    chunks, missing = [], {}
    for row in window:
        voice, generator = voices[row.voice], speaker.noise(row.seed)
        try:
            prepared = speaker.prepare(row.text, voice.audio, voice.text, generator=generator)
        except (ValueError, TypeError) as error:
            if row.id not in done:
                yield SpokenRow(row, error=" ".join(str(error).split()))
            continue
        sources = speaker.noise_sources(prepared, generator)
        chunks += [(row, chunk, source) for chunk, source in zip(prepared, sources, strict=True)]
        if row.id not in done:
            missing[row.id] = [None] * len(prepared)
    chunks.sort(key=lambda each: each[1].num_frames)
    for batch in split_batches([chunk for _, chunk, _ in chunks], max_batch_frames):
        together = chunks[batch.start : batch.stop]
        if not any(row.id in missing for row, _, _ in together):
            continue
        mels = _sample(speaker, [each[1:] for each in together], sampling)
        for (row, chunk, _), mel in zip(together, mels, strict=True):
            if row.id not in missing:
                continue
            waves = missing[row.id]
            waves[chunk.chunk_index] = speaker.vocode(chunk, mel)
            if all(wave is not None for wave in waves):
                del missing[row.id]
                yield _joined(row, waves, speaker.sampling_rate)


def _sample(speaker: PipelineSpeaker, chunks: list[tuple], sampling: dict[str, Any]) -> list[torch.Tensor]:
    """
    Log-mels of chunks that are sampled at once, each with its source of noise; by halves where that takes more memory
    than there is: the next run would come to the same batch.
    """
    states = [source.get_state() for _, source in chunks]
    try:
        return speaker.sample(
            [chunk for chunk, _ in chunks],
            generators=[source for _, source in chunks],
            max_batch_frames=_ONE_BATCH,
            **sampling,
        )
    except torch.OutOfMemoryError:
        if len(chunks) == 1:
            raise
    for (_, source), state in zip(chunks, states, strict=True):
        source.set_state(state)
    half = len(chunks) // 2
    return [mel for part in (chunks[:half], chunks[half:]) for mel in _sample(speaker, part, sampling)]


def _joined(row: PlannedRow, waves: list[np.ndarray], rate: int) -> SpokenRow:
    audio = cross_fade(waves, rate)
    try:
        check_finite(audio)
    except ValueError as error:
        return SpokenRow(row, error=str(error))
    return SpokenRow(row, audio=audio)
