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


def flow_head(latent_dim, moved=True, **changes):
    """A tiny head for the tiny network, off its initial state, at which it draws nothing but the mean."""
    from tiny import randomise

    from dtm_hf import DTMHead, DTMHeadConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "time_embed_dim": 8, "architecture": "conv"}
    torch.manual_seed(0)
    head = DTMHead(DTMHeadConfig(backbone_hidden_size=32, num_mel_bins=latent_dim, **sizes | changes)).eval()
    if moved:
        randomise(head, 1)
    return head


def pipeline(vocab_file, **changes):
    """A complete pipeline with the tiny codec and random weights; with a `latent_dim` also a head."""
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
        head=flow_head(changes["latent_dim"]) if "latent_dim" in changes else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
