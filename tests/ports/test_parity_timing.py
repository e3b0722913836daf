"""A port whose text is aligned: it says what its source says, and the gate finds a fault in what times it."""

import shutil

import numpy as np
import pytest
import torch
from sabotage import edit_graph, failed, transposed, without, wrapped

from dtm_hf import DTMPipeline
from dtm_hf.ports.export import export_pipeline
from dtm_hf.ports.parity import check_parity
from dtm_hf.runtime import Speaker

pytestmark = pytest.mark.slow  # an export

TEXT, SAID = "Hello there, you.", "What is said."
# The name of the component, its graph, and what varies from token to token in its answer.
ALIGNER, DURATIONS = ("text_aligner", "aligner"), ("duration_predictor", "durations")


@pytest.fixture(scope="module")
def exported(timed_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ports") / "timed"
    export_pipeline(timed_pipeline, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "port")


@pytest.fixture
def check(timed_pipeline, reference_audio):
    # Rows are timed one by one: a batch would show no more.
    return lambda ported: failed(
        check_parity(timed_pipeline, ported, reference_audio, SAID, time_passes=0, batches=((0,),))
    )


def test_it_says_the_same(timed_pipeline, exported, reference_audio):
    source = timed_pipeline
    ported, speaker = DTMPipeline.from_pretrained(exported), Speaker(exported, threads=1)
    ported.set_progress_bar_config(disable=True)

    def say(pipeline, output_type, seed=1):
        generator = torch.Generator().manual_seed(seed)
        given = (TEXT, reference_audio, SAID)
        return pipeline(*given, generator=generator, output_type=output_type).audios[0]

    expected, mounted = say(source, "mel"), say(ported, "mel")
    generator = speaker.noise(1)
    (row,) = speaker.prepare(TEXT, reference_audio, SAID, generator=generator)
    (spoken,) = speaker.sample([row], generators=speaker.noise_sources([row], generator))
    assert expected.shape == mounted.shape == spoken.shape
    assert (mounted - expected).abs().max() < 1e-3
    np.testing.assert_allclose(spoken, expected, atol=1e-3)
    expected, mounted, spoken = (
        say(source, "np"),
        say(ported, "np"),
        speaker(TEXT, reference_audio, SAID, seed=1).audio,
    )
    assert expected.shape == mounted.shape == spoken.shape
    largest = np.abs(expected).max()
    assert np.abs(mounted - expected).max() < 1e-3 * largest
    # Griffin-Lim makes more of roundings, and of a mel of random weights the most.
    assert np.corrcoef(spoken, expected)[0, 1] > 0.9999
    (row,) = source.prepare(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(1))
    other = speaker(TEXT, reference_audio, SAID, seed=2)
    assert other.audio.shape != spoken.shape or np.abs(other.audio - spoken).max() > 0.01 * largest
    assert len(row.durations) == len(row.token_ids)


def test_it_passes_the_gate(timed_pipeline, exported, reference_audio):
    ported = DTMPipeline.from_pretrained(exported)
    report = check_parity(timed_pipeline, ported, reference_audio, SAID, time_passes=0)
    assert report["passed"]
    assert {"text_aligner/aligner", "duration_predictor/durations"} <= set(report["rungs"]["graphs"]["graphs"])


@pytest.mark.parametrize("part", [ALIGNER, DURATIONS])
def test_a_transposed_weight_is_found(check, folder, part):
    component, graph = part
    edit_graph(folder / component / f"{graph}.onnx", transposed(16))
    assert "/".join(part) in check(DTMPipeline.from_pretrained(folder))


@pytest.mark.parametrize("part", [ALIGNER, DURATIONS])
def test_a_token_off_by_one_is_found(check, exported, part):
    component, graph = part
    ported = DTMPipeline.from_pretrained(exported)
    graphs = ported.components[component].graphs
    wrapped(graphs, graph, lambda run, **arrays: {k: np.roll(v, 1, axis=-1) for k, v in run(**arrays).items()})
    assert check(ported) >= {"/".join(part), "sound"}


@pytest.mark.parametrize(
    ("part", "name"),
    [(ALIGNER, name) for name in ("mel", "text_ids")]
    + [(DURATIONS, name) for name in ("sample", "timestep", "text_ids", "known", "known_mask")],
)
def test_a_dropped_input_is_found(check, exported, part, name):
    component, graph = part
    ported = DTMPipeline.from_pretrained(exported)
    without(ported.components[component].graphs, graph, name)
    assert "/".join(part) in check(ported)


@pytest.mark.parametrize("fault", ["pace", "frames"])
def test_what_goes_wrong_between_the_graphs_is_found(check, exported, fault):
    ported = DTMPipeline.from_pretrained(exported)
    if fault == "pace":
        # The recording's pace is forgotten: the walk is told of no known durations.
        runs = ported.duration_predictor._runs
        walk = runs.walk
        runs.walk = lambda noise, ids, known, steps: np.where(
            known > 0, known, walk(noise, ids, np.zeros_like(known), steps)
        ).astype(np.float32)
    else:
        # Of what the aligner found, each token has its neighbour's.
        runs = ported.text_aligner._runs
        align = runs.align
        runs.align = lambda mel, ids: np.roll(align(mel, ids), 1)
    assert check(ported) >= {"speech", "sound"}
