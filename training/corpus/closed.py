"""The closed domain: numbers, digit strings, clock times, weekdays and dates, in 73 words of English."""

import random

from dtm_hf.training.corpus.numbers import DIGITS, TEENS, TENS, spell_number

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
CARRIER_WORDS = (
    "the train bus leaves at from platform room gate number call please my is it today on meet me in half past "
    "quarter to and"
).split()

_WORDS = [*DIGITS, *TEENS, *TENS, "hundred", *WEEKDAYS, *MONTHS, *CARRIER_WORDS]

CLOSED_VOCABULARY: tuple[str, ...] = tuple(sorted({word.lower() for word in _WORDS}))
"""Every lower-case word a closed sentence can hold: what a recogniser is constrained to."""


def _number(rng: random.Random, low: int = 0, high: int = 999) -> str:
    return spell_number(rng.randint(low, high))


def _digits(rng: random.Random) -> str:
    return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(2, 5)))


def _time(rng: random.Random) -> str:
    hour = _number(rng, 1, 12)
    kind = rng.random()
    if kind < 0.25:
        return f"half past {hour}"
    if kind < 0.40:
        return f"quarter past {hour}"
    if kind < 0.55:
        return f"quarter to {hour}"
    return f"{hour} {_number(rng, 10, 59)}"


def _date(rng: random.Random) -> str:
    return f"{rng.choice(MONTHS)} {_number(rng, 1, 31)}"


_TEMPLATES = (
    lambda rng: f"{rng.choice(WEEKDAYS)} at {_time(rng)}",
    lambda rng: f"the {rng.choice(['train', 'bus'])} leaves at {_time(rng)}",
    lambda rng: (
        f"the {rng.choice(['train', 'bus'])} leaves from {rng.choice(['platform', 'gate'])} {_number(rng, 1, 30)}"
    ),
    lambda rng: f"{rng.choice(['room', 'gate', 'platform', 'number'])} {_number(rng, 1, 999)}",
    lambda rng: f"my number is {_digits(rng)}",
    lambda rng: f"please call {_digits(rng)}",
    lambda rng: f"today is {rng.choice(WEEKDAYS)} {_date(rng)}",
    lambda rng: f"it is {_time(rng)}",
    lambda rng: f"meet me at {_time(rng)} on {rng.choice(WEEKDAYS)}",
    lambda rng: f"meet me in {rng.choice(['room ' + _number(rng, 1, 99), rng.choice(MONTHS)])}",
    _number,
    _digits,
    lambda rng: f"{rng.choice(WEEKDAYS)} {_date(rng)}",
    _date,
)


def closed_sentence(rng: random.Random) -> str:
    """One full-template sentence, neither capitalised nor ended."""
    return rng.choice(_TEMPLATES)(rng)


def closed_words(rng: random.Random) -> str:
    """One to four vocabulary words in any order: these tie each word to its sound whatever stands beside it."""
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 4)))
