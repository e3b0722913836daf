"""A call of a pipeline of codes whose speech is heard while it is made: sentence by sentence, in pieces of each."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from dtm_hf.codec.streaming import StreamingDecoder
from dtm_hf.pipelines.arguments import check_count
from dtm_hf.pipelines.chunking import CROSS_FADE_SECONDS, cross_fade
from dtm_hf.pipelines.code_rows import CodeRow, divide_codes, seconds_by_characters
from dtm_hf.pipelines.streaming import FIRST_SECONDS, check_one_text, stream_chunks


class CodeStreamMixin:
    """Of a pipeline that has `check`, `limits` and `sample` of [`TRMPipeline`]."""

    def stream(
        self,
        text: str,
        voice: str | int | None = None,
        reference_audio: Any = None,
        reference_text: str | None = None,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
        piece_frames: int = 12,
        **sampling: Any,
    ) -> Iterator[np.ndarray]:
        """
        Speak while it is heard: float32 samples `(T_i,)`. Together they are the sentences cross-faded.

        Args:
            text (`str`), voice, reference_audio, reference_text, speed (`float`), generator (`torch.Generator`,
                *optional*): as of a call; one text alone.
            piece_frames (`int`, defaults to 12): frames of the codec that are decoded at a time.
            sampling: as of [`~TRMPipeline.sample`].

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken, at once.
        """
        check_one_text(text)
        check_count("piece_frames", piece_frames, 1)
        inputs = self.check(text, voice, reference_audio, reference_text, speed, None)
        prompts = self.encode_prompts(inputs)
        measure = self.duration_predictor or seconds_by_characters
        sentences = stream_chunks(inputs.texts[0], float("inf"), FIRST_SECONDS * speed, measure)

        def rows() -> Iterator[CodeRow]:
            for sentence in sentences:
                part = dataclasses.replace(inputs, texts=[sentence])
                yield from divide_codes(part, prompts, self.tokenizer, self.duration_predictor, speed, self.limits)

        def pieces(row: CodeRow) -> Iterator[np.ndarray]:
            (codes,) = self.sample([row], generator=generator, **sampling)
            if not hasattr(self.codec, "decoder"):
                # A port decodes whole rows.
                yield from self.decode([row], [codes])
                return
            decoder = StreamingDecoder(self.codec)
            if row.prompt is not None:
                decoder.decode(codes[:, : row.known_frames])
            for piece in codes[:, row.known_frames :].split(piece_frames, dim=1):
                yield (row.gain * decoder.decode(piece)).cpu().numpy()

        return fade_pieces(map(pieces, rows()), self.sampling_rate)


def fade_pieces(waves: Iterable[Iterable[np.ndarray]], sampling_rate: int) -> Iterator[np.ndarray]:
    """
    Waveforms that come in pieces `(T_i,)`, as together `cross_fade` makes them: each sample as soon as no waveform to
    come can change it.
    """
    longest, held = int(CROSS_FADE_SECONDS * sampling_rate), np.zeros(0, np.float32)
    for wave in waves:
        known, joined = np.zeros(0, np.float32), False
        for piece in wave:
            known = np.concatenate([known, piece])
            if not joined and len(known) >= longest:
                known, joined = cross_fade([held, known], sampling_rate), True
            if joined and len(known) > longest:
                yield known[:-longest]
                known = known[-longest:]
        held = known if joined else cross_fade([held, known], sampling_rate)
    if len(held):
        yield held


__all__ = ["CodeStreamMixin"]
