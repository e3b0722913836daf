"""A tiny Mimi with filled codebooks, and sounds for it."""

import torch


def clips():
    """Hums with noise: 1 s, 0.4 s, 0.8 s and one sample."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(24000) / 24000
    return [
        0.3 * torch.sin(2 * torch.pi * pitch * time[:size]) + 0.1 * torch.randn(size, generator=generator)
        for pitch, size in ((120, 24000), (200, 9600), (310, 19200), (90, 1))
    ]


def tiny_codec():
    from transformers import MimiConfig, MimiModel

    from dtm_hf.codec.mimi import fill_codebooks

    torch.manual_seed(0)
    config = MimiConfig(
        num_filters=8,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        codebook_size=16,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=4,
        upsample_groups=64,
        sliding_window=50,
    )
    codec = MimiModel(config).eval()
    fill_codebooks(codec, clips(), generator=torch.Generator().manual_seed(0))
    return codec
