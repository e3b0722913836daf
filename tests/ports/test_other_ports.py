"""Ports of students, and in the formats that `Speaker` does not read."""

import pytest
import torch

from dtm_hf import DTMPipeline
from dtm_hf.ports.export import FORMATS, export_component
from dtm_hf.ports.parity import check_parity
from dtm_hf.ports.ported import PortedBackbone
from dtm_hf.ports.recipes import RECIPES
from dtm_hf.ports.tolerance import BARS
from dtm_hf.runtime.manifest import Manifest

pytestmark = pytest.mark.slow  # each test exports

SAID = "What is said."


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
    report = check_parity(port_source, halves, reference_audio, SAID, time_passes=0, batches=((0, 1),))
    assert report["passed"] and report["weights"] == "fp16"
    # And not by that of float32.
    assert report["rungs"]["graphs"]["graphs"]["backbone/backbone"]["deviation"] > BARS["fp32"].deviation
