"""Half precision on processors with and without it; which of them this one is makes no difference here."""

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from training_runs import flow_matching_arguments, write_corpus

from dtm_hf import DTMPipeline, VocosVocoder, precision
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer


@pytest.fixture(params=[True, False], ids=["multiplies", "does not"])
def multiplies(request, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_in", lambda dtype: dtype == torch.float32 or request.param)
    return request.param


class Products(TorchFunctionMode):
    """The dtypes that products of matrices are computed in."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear:
            self.seen.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_backbone_in_half_precision_computes_in_what_is_fast(multiplies, dtype, make_backbone, mel_batch):
    torch.manual_seed(0)
    backbone = make_backbone()
    batch = (mel_batch.mel, 0.3, torch.zeros_like(mel_batch.mel), mel_batch.text_ids, mel_batch.attention_mask)
    with torch.no_grad():
        exact = backbone(*batch).velocity
        backbone.to(dtype)
        # Around it: the mode that was entered last is asked first.
        with Products() as products, precision.computing(backbone):
            output = backbone(*batch)
    assert products.seen == {dtype if multiplies else torch.float32}
    assert output.velocity.dtype == dtype
    assert (output.velocity - exact).norm() < 0.03 * exact.norm()


def test_with_a_gradient_a_recomputation_finds_the_dtypes_of_before(multiplies, make_backbone, mel_batch):
    backbone = make_backbone().to(torch.bfloat16)
    backbone.enable_gradient_checkpointing()
    batch = (torch.zeros_like(mel_batch.mel), mel_batch.text_ids, mel_batch.attention_mask)
    x = mel_batch.mel.clone().requires_grad_()
    with precision.computing(backbone):
        velocity = backbone(x, 0.3, *batch).velocity
    velocity.sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_a_pipeline_in_bfloat16_speaks_in_what_is_fast(
    multiplies, make_backbone, make_head, tiny_pipeline, reference_audio
):
    # Components of its own: those of the fixture are shared.
    parts = tiny_pipeline.components | {"backbone": make_backbone(), "head": make_head()}
    parts["vocoder"] = VocosVocoder(dim=16, intermediate_dim=16, num_layers=1)
    pipeline = DTMPipeline(**parts).to(torch.bfloat16)
    with Products() as products:
        (audio,) = pipeline("Hello there.", reference_audio, "What is said.", num_inference_steps=2).audios
    # The last layer of the vocoder is in float32 on any processor.
    assert (torch.bfloat16 in products.seen) == multiplies and audio.any()


def test_a_run_is_in_the_precision_that_is_fast(multiplies, tmp_path, capsys):
    argv = [*flow_matching_arguments(write_corpus(tmp_path / "corpus"), tmp_path / "run"), "--mixed_precision", "bf16"]
    # A process takes a precision up once.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        found = Trainer(parse_config(argv)).accelerator.mixed_precision
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert found == ("bf16" if multiplies else "no")
    assert ("`mixed_precision` bf16 is computed in float32" in capsys.readouterr().out) != multiplies
