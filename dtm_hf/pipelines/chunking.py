"""Long text: cut into chunks as F5-TTS cuts it, timed by bytes or another measure, and joined by a cross-fade."""

import math
import re
from collections.abc import Callable

import numpy as np

# f5_tts/infer/utils_infer.py: seconds that prompt and target may have together, and the fade between chunks.
MAX_TOTAL_SECONDS = 22
CROSS_FADE_SECONDS = 0.15
SENTENCE_END = re.compile(r"(?<=[;:,.!?])\s+|(?<=[；：，。！？])")
# The longest word in a dictionary of English has 45 letters.
_LONGEST_WORD_BYTES = 45
# A clause that is a little longer than a chunk stays whole: a break inside of it is heard.
_CLAUSE_TOLERANCE = 1.25
# Shorter texts are spoken slower by F5-TTS: its rule of proportion leaves them too little time.
_SHORT_TEXT_BYTES = 10
_SHORT_TEXT_SPEED = 0.3


def num_bytes(text: str) -> int:
    """Length in UTF-8, F5-TTS's measure of how long a text takes to say."""
    return len(text.encode("utf-8"))


def finish_reference_text(text: str) -> str:
    """
    End a prompt's text as F5-TTS ends it, with ". " or a Chinese full stop; without the quotes that came around the
    whole, which nobody says.
    """
    if re.fullmatch(r"\"[^\"]+\"|'[^']+'", text):
        text = text[1:-1]
    if text.endswith((". ", "。")):
        return text
    return text + (" " if text.endswith(".") else ". ")


def chunk_text(text: str, longest: float, measure: Callable[[str], float] = num_bytes) -> list[str]:
    """
    Cut text into chunks that measure at most `longest`: behind its punctuation, as F5-TTS does, and a clause that is
    longer by more than a quarter at words, into equal parts.
    """
    chunks, current = [], ""
    clauses = filter(None, SENTENCE_END.split(text))
    for clause in (part for whole in clauses for part in _cut_clause(whole, longest, measure)):
        piece = clause + " " if num_bytes(clause[-1]) == 1 else clause
        if current and measure(current) + measure(clause) > longest:
            chunks.append(current.strip())
            current = ""
        current += piece
    if current.strip():
        chunks.append(current.strip())
    return chunks


def _cut_clause(clause: str, longest: float, measure: Callable[[str], float]) -> list[str]:
    """Equal parts, by bytes, of what measures more than `longest`; each word in the part that its middle lies in."""
    measured = measure(clause)
    if measured <= _CLAUSE_TOLERANCE * longest:
        return [clause]
    # What is longer than any word is of a script without blanks.
    units = [
        unit
        for word in re.findall(r"\S+\s*", clause)
        for unit in ([word] if num_bytes(word) <= _LONGEST_WORD_BYTES else word)
    ]
    parts = min(math.ceil(measured / longest), len(units))
    pieces, size, start = [""] * parts, num_bytes(clause) / parts, 0
    for unit in units:
        pieces[min(int((start + num_bytes(unit) / 2) / size), parts - 1)] += unit
        start += num_bytes(unit)
    return [piece.strip() for piece in pieces if piece.strip()]


def longest_chunk(
    reference_text: str,
    reference_seconds: float,
    speed: float,
    measure: Callable[[str], float] = num_bytes,
    max_seconds: float = MAX_TOTAL_SECONDS,
) -> float:
    """
    What a chunk may measure that fits beside the prompt at the prompt's own pace: into `max_seconds` with it, or into
    a third of them if the prompt leaves less.
    """
    pace = measure(reference_text) / reference_seconds
    return pace * max(max_seconds - reference_seconds, max_seconds / 3) * speed


def target_frames(
    text: str,
    reference_text: str,
    reference_frames: int,
    speed: float,
    measure: Callable[[str], float] = num_bytes,
) -> int:
    """
    Frames that `text` takes at the pace of the prompt, divided by `speed`: in proportion to bytes as in F5-TTS, or to
    another measure.
    """
    if measure is num_bytes and num_bytes(text) < _SHORT_TEXT_BYTES:
        speed = _SHORT_TEXT_SPEED
    return int(reference_frames / measure(reference_text) * measure(text) / speed)


def share_seconds(total: float, chunks: list[str], measure: Callable[[str], float] = num_bytes) -> list[float]:
    """
    Divide a wanted duration in seconds among chunks in proportion to what they measure; the cross-fades between them
    are added back.
    """
    total += CROSS_FADE_SECONDS * (len(chunks) - 1)
    weights = [measure(chunk) for chunk in chunks]
    return [total * weight / sum(weights) for weight in weights]


def cross_fade(waves: list[np.ndarray], sampling_rate: int) -> np.ndarray:
    """Join waveforms `(T_i,)` with linear fades of 0.15 s, or as long as the shorter neighbour allows."""
    joined = np.empty(sum(map(len, waves)), dtype=waves[0].dtype)
    end = 0
    for wave in waves:
        fade = min(int(CROSS_FADE_SECONDS * sampling_rate), end, len(wave))
        if fade > 0:
            ramp = np.linspace(0, 1, fade, dtype=wave.dtype)
            joined[end - fade : end] = joined[end - fade : end] * ramp[::-1] + wave[:fade] * ramp
        joined[end : end + len(wave) - fade] = wave[fade:]
        end += len(wave) - fade
    return joined[:end]
