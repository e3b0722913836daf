"""What a run looks up in its data before it begins: who speaks, how long texts take, and recordings to be heard."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.reading import read_json
from dtm_hf.training.codes.packing import unpack_codes
from dtm_hf.training.codes.rows import WaveformMaker
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import open_sources
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.speech.durations import Timed, fit_durations
from dtm_hf.training.speech.prompts import ValidationRow

if TYPE_CHECKING:
    from transformers import MimiModel

logger = logging.getLogger(__name__)

# Texts that durations are fitted on.
_MOST_TIMED = 5000
# Rows that the spread of latents is measured on.
_MOST_MEASURED = 500
_TOKENIZED = "tokenize.json"


def find_speakers(config: TrainingConfig) -> list[str]:
    """
    Names of the voices of the training split, in order; ["default"] where its rows name none.

    Raises:
        ValueError: if a source, its split or a column is not there.
    """
    columns = {"codes": None, "text": None, "speaker": None}
    sources = open_sources(
        config.data, config.data.train_split, lambda s: columns | {"text": s.text_column, "speaker": s.speaker_column}
    )
    found: set[str | None] = set()
    for source in sources:
        if source.arguments.speaker_column:
            for row in source.readable_rows():
                with suppress(BadRow):
                    found.add(source.label(row, "speaker"))
    return sorted(found - {None}) or ["default"]


def fit_code_durations(config: TrainingConfig, frame_rate: float) -> DurationPredictor | None:
    """How long texts take, from the first rows of the training split; `None` where they are too few to tell."""
    arguments = config.objective
    columns = {"codes": arguments.codes_column, "speaker": None}
    sources = open_sources(config.data, config.data.train_split, lambda s: columns | {"text": s.text_column})
    timed, share = [], -(-_MOST_TIMED // len(sources))
    for source in sources:
        for row in islice(source.readable_rows(), share):
            try:
                text = "".join(source.text(row)).strip()
                codes = unpack_codes(source.value(row, "codes"), 1, 2**15)
            except BadRow:
                continue
            if text:
                timed.append(Timed(text, codes.shape[1] / frame_rate, None))
    try:
        return fit_durations(timed, training_data=f"{len(timed)} coded recordings")
    except ValueError as error:
        logger.warning("No `duration_predictor` is fitted: %s", error)
        return None


def coded_validation_rows(config: TrainingConfig, codec: "MimiModel") -> Iterator[ValidationRow]:
    """
    Rows of the validation split, whose recordings are what the codec makes of their codes: the best that can be said.

    Raises:
        ValueError: if there is no `validation_split`, or no source has it.
    """
    data, arguments = config.data, config.objective
    if data.validation_split is None:
        raise ValueError("Samples say what is in the `validation_split`, but got none.")
    columns = {"codes": arguments.codes_column}
    sources = open_sources(
        data, data.validation_split, lambda s: columns | {"text": s.text_column, "speaker": s.speaker_column}
    )
    for source in sources:
        for row in source.readable_rows():
            try:
                speaker, text = source.label(row, "speaker"), "".join(source.text(row)).strip()
            except BadRow:
                continue
            yield ValidationRow(
                speaker or "default", text, partial(_decoded, source, row, codec, arguments.num_codebooks)
            )


def _decoded(source: Source, row: Row, codec: "MimiModel", books: int, rate: int, longest: float) -> np.ndarray:
    from dtm_hf.codec.mimi import decode_codes

    codes = unpack_codes(source.value(row, "codes"), books, codec.config.codebook_size)
    if codes.shape[1] * codec.config.frame_size > longest * rate:
        raise WrongLength(f"longer than {longest} s")
    return decode_codes(codec, [torch.from_numpy(codes.astype(np.int64))])[0].cpu().numpy()


def first_recordings(config: TrainingConfig, codec: "MimiModel", seconds: float) -> list[torch.Tensor]:
    """The first recordings `(T_i,)` of the training split that last so many seconds together, or all of them."""
    rate = codec.config.sampling_rate
    maker = WaveformMaker(config.data, rate, codec.config.frame_size)
    found, total = [], 0
    for source in open_sources(config.data, config.data.train_split, maker.columns):
        for row in source.readable_rows():
            if total >= seconds * rate:
                return found
            try:
                waveform = maker.make(source, row)
            except (BadRow, WrongLength):
                continue
            found.append(torch.from_numpy(waveform))
            total += len(waveform)
    return found


def latent_statistics(
    config: TrainingConfig, codec: "MimiModel", num_codebooks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and standard deviation `(M,)` of the latents that the first rows of the training split are coded as.

    Raises:
        ValueError: if none of them has codes.
    """
    from dtm_hf.codec.mimi import latents_of_codes

    columns = {"codes": config.objective.codes_column, "text": None, "speaker": None}
    found = []
    for source in open_sources(config.data, config.data.train_split, lambda s: columns | {"text": s.text_column}):
        for row in islice(source.readable_rows(), _MOST_MEASURED):
            with suppress(BadRow):
                codes = unpack_codes(source.value(row, "codes"), num_codebooks, codec.config.codebook_size)
                found.append(latents_of_codes(codec, torch.from_numpy(codes.astype(np.int64))[None])[0].T)
    if not found:
        raise ValueError(f"`dataset` must have rows with codes in {config.objective.codes_column!r}, but has none.")
    latents = torch.cat(found)
    # A channel that never moves would be divided by nothing.
    return latents.mean(dim=0), latents.std(dim=0, correction=0).clamp(min=1e-3)


def check_codec(config: TrainingConfig, codec: "MimiModel") -> None:
    """
    Raises:
        ValueError: if a folder of the data says that its codes are of another codec.
    """
    from dtm_hf.codec.mimi import codec_fingerprint

    for source in config.data.all_sources():
        path = Path(source.dataset) / _TOKENIZED
        if not path.is_file():
            continue
        told = read_json(path).get("codec")
        made = told.get("fingerprint") if isinstance(told, dict) else None
        if made is not None and made != (own := codec_fingerprint(codec)):
            raise ValueError(
                f"`codec` {config.objective.codec!r} must be the one that {source.dataset!r} was tokenized with, "
                f"{json.dumps(made)}, but is {json.dumps(own)}."
            )
