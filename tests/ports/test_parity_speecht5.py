"""The gate of SpeechT5 lets a port through, and stops one with a fault in it."""

import json
import shutil

import numpy as np
import pytest
import torch
from sabotage import edit_graph, failed, kernels_back_to_front, transposed, without, wrapped
from tiny_speecht5 import tiny_hifigan, tiny_speecht5, tiny_speecht5_pipeline

from dtm_hf import PortedSpeechT5, SpeechT5Pipeline
from dtm_hf.ports.export import FORMATS, export_component, export_pipeline
from dtm_hf.ports.parity_speecht5 import check_speecht5_parity
from dtm_hf.ports.recipes import RECIPES

pytestmark = pytest.mark.slow  # an export


@pytest.fixture(scope="module")
def source(tokenizer):
    return tiny_speecht5_pipeline(tokenizer)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ports") / "speecht5"
    export_pipeline(source, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "port")


@pytest.fixture
def ported(folder):
    return SpeechT5Pipeline.from_pretrained(folder)


def check(source, ported, batches=((0, 1),)):
    return check_speecht5_parity(source, ported, time_steps=0, batches=batches)


def test_a_port_passes_and_says_what_was_compared(source, ported, tmp_path):
    report = check_speecht5_parity(source, ported, time_steps=1)
    assert failed(report) == set(), report["rungs"]["end to end"]
    assert report["passed"] and report["cost"]["pass ratio"] > 0
    assert set(report["rungs"]["graphs"]["graphs"]) == {"model/text", "model/step", "model/postnet", "vocoder/vocoder"}
    assert len(report["rungs"]["graphs"]["teacher forced"]) == 20
    assert report["rungs"]["end to end"]["passed"]
    assert all(cost["real-time factor"] > 0 for cost in report["cost"]["speaking"].values())
    assert json.loads(json.dumps(report)) == report
    ported.save_pretrained(tmp_path / "again")
    again = SpeechT5Pipeline.from_pretrained(tmp_path / "again")
    mels = [
        p("Good morning.", threshold=2.0, max_ratio=2.0, generator=torch.Generator().manual_seed(0)).audios[0]
        for p in (source, again)
    ]
    assert np.abs(mels[0] - mels[1]).max() < 1e-5


def test_a_transposed_weight_is_found(source, folder):
    edit_graph(folder / "model" / "step.onnx", transposed(48))
    # What a vocoder of random weights makes of it is not the matter here.
    assert failed(check(source, SpeechT5Pipeline.from_pretrained(folder))) >= {"model/step", "speech"}


@pytest.mark.parametrize("fault", ["kernels", "off by one", "dropped"])
def test_a_fault_of_the_vocoder_is_found(source, folder, fault):
    if fault == "kernels":
        edit_graph(folder / "vocoder" / "vocoder.onnx", kernels_back_to_front)
    ported = SpeechT5Pipeline.from_pretrained(folder)
    if fault == "off by one":
        # A frame late.
        wrapped(ported.vocoder.graphs, "vocoder", lambda run, mel: run(mel=np.roll(mel, 1, axis=1)))
    elif fault == "dropped":
        without(ported.vocoder.graphs, "vocoder", "mel")
    assert failed(check(source, ported, batches=((0,),))) == {"vocoder/vocoder", "sound"}


@pytest.mark.parametrize(
    ("graph", "name"),
    [
        *(("step", name) for name in ("frame", "masks", "speaker", "cache", "cross_cache", "attention_mask")),
        ("text", "input_ids"),
        ("text", "attention_mask"),
        ("postnet", "mel"),
    ],
)
def test_a_dropped_input_is_found(source, ported, graph, name):
    without(ported.model.graphs, graph, name)
    assert f"model/{graph}" in failed(check(source, ported))


def test_rows_that_change_places_are_found(source, ported):
    wrapped(
        ported.model.graphs,
        "step",
        lambda run, **arrays: (found := dict(run(**arrays))) | {"frames": found["frames"][::-1].copy()},
    )
    assert failed(check(source, ported)) >= {"model/step", "speech"}


def test_a_position_off_by_one_is_found(source, ported):
    step = ported.model.graphs["step"]
    ported.model.graphs["step"] = lambda **arrays: step(**arrays | {"position": arrays["position"] + 1})
    assert failed(check(source, ported)) == {"model/step", "speech", "sound"}


def test_keys_in_the_place_of_values_are_found(source, ported):
    text = ported.model.graphs["text"]

    def swapped(**arrays):
        output = dict(text(**arrays))
        return output | {"cross_cache": np.flip(output["cross_cache"], axis=1).copy()}

    ported.model.graphs["text"] = swapped
    assert failed(check(source, ported)) == {"model/text", "speech", "sound"}


def test_frames_that_are_fed_back_behind_the_post_net_are_found(source, ported):
    # Every graph is right: what is wrong is what goes from one to the other.
    step, refine = ported.model.step, ported.model.refine

    def refined(**tensors):
        output = step(**tensors)
        return output | {"frames": refine(output["frames"])}

    ported.model.step = refined
    assert failed(check(source, ported)) == {"speech", "sound"}


def test_a_port_of_another_model_is_refused(source, ported, tokenizer):
    other = tiny_speecht5_pipeline(tokenizer, model=tiny_speecht5(seed=1, vocab_size=tokenizer.vocab_size + 3))
    with pytest.raises(ValueError, match="made of another model"):
        check(other, ported)
    other = tiny_speecht5_pipeline(tokenizer, model=source.model, vocoder=tiny_hifigan(seed=1))
    with pytest.raises(ValueError, match="made of another vocoder"):
        check(other, ported)
    with pytest.raises(ValueError, match="holds no port"):
        check(source, other)


def test_rounded_weights_have_a_bar_of_their_own(source, tmp_path):
    export_component(source.model, RECIPES[type(source.model)], tmp_path, FORMATS["onnx"], "int8")
    rounded = SpeechT5Pipeline(**source.components | {"model": PortedSpeechT5.from_pretrained(tmp_path)})
    report = check(source, rounded)
    assert report["passed"] and report["weights"] == "int8"
    assert report["rungs"]["graphs"]["graphs"]["model/step"]["deviation"] > 1e-4
