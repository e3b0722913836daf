"""A server of the tiny pipeline, and its voices."""

import pytest
from served import gated, serving, speaker, voices

__all__ = ["gated", "server", "speaker", "voices"]


@pytest.fixture(scope="module")
def server(speaker, voices):
    with serving(speaker, voices) as running:
        yield running
