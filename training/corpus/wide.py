"""Placeholder of the wide domain."""

import random


def wide_sentence(rng: random.Random) -> str:
    raise NotImplementedError


wide_words = wide_sentence
