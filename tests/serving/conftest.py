"""A server of the tiny pipeline, and its voices."""

import pytest
from served import Gated, serving

from dtm_hf.frontend.voices import Recording

SAID = "What is said."


@pytest.fixture(scope="session")
def voices(reference_audio):
    return {"anna": Recording(reference_audio, SAID), "ben": Recording(reference_audio, "What was said.")}


@pytest.fixture(scope="session")
def speaker(port_source):
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    return PipelineSpeaker(port_source)


@pytest.fixture(scope="module")
def server(speaker, voices):
    with serving(speaker, voices) as running:
        yield running


@pytest.fixture
def gated(speaker):
    gated = Gated(speaker)
    yield gated
    gated.let()
