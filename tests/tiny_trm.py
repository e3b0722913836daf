"""A tiny TRM and what it may be asked."""

import torch

SIZES = {
    "vocab_size": 20,
    "speakers": ["ann", "bob"],
    "num_codebooks": 3,
    "codebook_size": 12,
    "text_dim": 32,
    "audio_dim": 32,
    "ffn_dim": 48,
    "num_heads": 2,
    "text_layers": 1,
    "h_cycles": 2,
    "l_cycles": 2,
    "codebook_embed_dim": 8,
    "speaker_embed_dim": 8,
    "max_text_length": 16,
    "max_audio_frames": 24,
}
TEXT = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 10, 2, 0, 0, 0]])
SPEAKERS = torch.tensor([0, 1])
MASK = torch.arange(9)[None] < torch.tensor([9, 5])[:, None]


def model(**changes):
    from dtm_hf.trm.configuration_trm import TRMConfig
    from dtm_hf.trm.modeling_trm import TRMModel

    torch.manual_seed(0)
    return TRMModel(TRMConfig(**SIZES | changes)).eval()


def pipeline(vocab_file, **changes):
    """A complete pipeline with the tiny codec and random weights."""
    from tiny_codec import tiny_codec

    from dtm_hf import DurationPredictor, F5Tokenizer, MaskingScheduler, TRMPipeline

    tokenizer = F5Tokenizer(vocab_file)
    sizes = {"codebook_size": 16, "max_text_length": 60, "max_audio_frames": 40, "license": "mit"}
    pipe = TRMPipeline(
        model=model(vocab_size=tokenizer.vocab_size + 1, **sizes | changes),
        codec=tiny_codec(),
        tokenizer=tokenizer,
        scheduler=MaskingScheduler(num_inference_steps=2),
        duration_predictor=DurationPredictor(0.2, 0.05, {"e": 0.1}, 0.05),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
