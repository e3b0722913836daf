"""Ports of pipelines whose text is aligned, and in the formats that `Speaker` does not read."""

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, randomise

from dtm_hf import DTMPipeline, DTMScheduler, TextAligner, TokenDurations
from dtm_hf.ports.export import FORMATS, export_component, export_pipeline
from dtm_hf.ports.parity import check_parity
from dtm_hf.ports.ported import PortedBackbone
from dtm_hf.ports.recipes import RECIPES
from dtm_hf.ports.tolerance import BARS
from dtm_hf.runtime import Speaker
from dtm_hf.runtime.manifest import Manifest

pytestmark = pytest.mark.slow  # each test exports

SAID = "What is said."


def test_a_port_of_aligned_text_says_the_same(
    make_backbone, tokenizer, feature_extractor, vocoder, reference_audio, tmp_path
):
    torch.manual_seed(0)
    durations = TokenDurations(len(VOCABULARY), hidden_size=16, num_layers=1)
    randomise(durations, 1)
    source = DTMPipeline(
        backbone=make_backbone(text_alignment="durations"),
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(num_inference_steps=2, num_head_steps=0),
        duration_predictor=durations,
        text_aligner=TextAligner(len(VOCABULARY), hidden_size=16, embedding_size=8),
    )
    export_pipeline(source, tmp_path / "port")
    ported, speaker = DTMPipeline.from_pretrained(tmp_path / "port"), Speaker(tmp_path / "port", threads=1)
    for pipeline in (source, ported):
        pipeline.set_progress_bar_config(disable=True)
    expected, mounted = (
        pipeline("Hello there, you.", reference_audio, SAID, generator=torch.Generator().manual_seed(1)).audios[0]
        for pipeline in (source, ported)
    )
    spoken = speaker("Hello there, you.", reference_audio, SAID, seed=1).audio
    assert expected.shape == mounted.shape == spoken.shape
    largest = np.abs(expected).max()
    assert np.abs(mounted - expected).max() < 1e-3 * largest
    # Griffin-Lim makes more of roundings.
    assert np.corrcoef(spoken, expected)[0, 1] > 0.999
    assert check_parity(source, ported, reference_audio, SAID, time_passes=0)["passed"]
    (row,) = source.prepare("Hello there, you.", reference_audio, SAID, generator=torch.Generator().manual_seed(1))
    other = speaker("Hello there, you.", reference_audio, SAID, seed=2)
    assert other.audio.shape != spoken.shape or np.abs(other.audio - spoken).max() > 0.01 * largest
    assert len(row.durations) == len(row.token_ids)


@pytest.mark.parametrize(
    ("name", "weights", "tolerance"),
    [("torch_export", "fp32", 1e-5), ("onnx", "fp32", 1e-4), ("onnx", "fp16", 2e-2)],
)
def test_a_student_in_other_formats_is_the_student(make_backbone, tmp_path, name, weights, tolerance):
    student = make_backbone(step_counts=[2, 4])
    export_component(student, RECIPES[type(student)], tmp_path, FORMATS[name], weights)
    ported = PortedBackbone.from_pretrained(tmp_path)
    assert (Manifest.load(tmp_path).weights, ported.fingerprint) == (weights, student.fingerprint)
    generator = torch.Generator().manual_seed(0)
    # Other sizes than the examples of the trace: three rows, of which two are padded.
    mask = torch.arange(41)[None] < torch.tensor([[41], [30], [12]])
    x_t, cond = (torch.randn(3, 41, 100, generator=generator) * mask[..., None] for _ in range(2))
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [7, 8, 9, -1]])
    with torch.no_grad():
        embeds = student.encode_text(ids, mask, 41)
        answers = [
            backbone(x_t, 0.3, cond, None, mask, text_embeds=text, num_steps=steps).velocity[mask]
            for backbone, text in ((student, embeds), (ported, ported.encode_text(ids, mask, 41)))
            for steps in (2, 4)
        ]
    scale = answers[0].square().mean().sqrt()
    for expected, found in zip(answers[:2], answers[2:], strict=True):
        assert (found - expected).abs().max() < tolerance * scale
    assert (answers[0] - answers[1]).abs().max() > 1e-3 * scale


def test_halves_pass_the_gate_by_a_bar_of_their_own(port_source, reference_audio, tmp_path):
    export_component(port_source.backbone, RECIPES[type(port_source.backbone)], tmp_path, FORMATS["onnx"], "fp16")
    halves = DTMPipeline(**port_source.components | {"backbone": PortedBackbone.from_pretrained(tmp_path)})
    report = check_parity(port_source, halves, reference_audio, SAID, time_passes=0)
    assert report["passed"] and report["weights"] == "fp16"
    # And not by that of float32.
    assert report["rungs"]["graphs"]["graphs"]["backbone/backbone"]["deviation"] > BARS["fp32"].deviation
