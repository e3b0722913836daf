"""Compiled blocks say what they said before."""

import torch

from dtm_hf.training.speech.compilation import compile_parts


def test_a_compiled_backbone_gives_the_same_gradients_under_the_same_names(make_backbone):
    generator = torch.Generator().manual_seed(0)
    results = []
    for compiled in (False, True):
        backbone = make_backbone().unfreeze()
        names = list(backbone.state_dict())
        if compiled:
            # Two blocks, one block of the text encoder, what comes before and after them. Traced and differentiated as
            # for the default backend, whose own compiler of kernels takes a minute.
            assert compile_parts(backbone, backend="aot_eager") == 5
        gradients = []
        for size, frames in ((2, 24), (3, 17)):
            generator.manual_seed(frames)
            sample = torch.randn(size, frames, 100, generator=generator)
            mask = torch.arange(frames)[None] < torch.tensor([frames, 12, 9])[:size, None]
            text_ids = torch.randint(1, 50, (size, 9), generator=generator)
            output = backbone(sample, torch.full((size,), 0.3), torch.zeros_like(sample), text_ids, mask)
            backbone.zero_grad()
            output.velocity.masked_fill(~mask[..., None], 0).square().sum().backward()
            gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
        assert list(backbone.state_dict()) == names
        results.append(gradients)
    for eager, compiled in zip(*results, strict=True):
        assert eager.keys() == compiled.keys()
        for name, gradient in eager.items():
            # Sums of thousands in another order: what is small beside a tensor's largest entry is rounding.
            largest = float(gradient.abs().max())
            torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-5 * largest + 1e-6, msg=name)
