"""A SpeechT5 and a HiFi-GAN of the size of tests, with weights that do something."""

import torch
from tiny import randomise
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig

SIZES = {
    "vocab_size": 40,
    "hidden_size": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_max_relative_position": 8,
    "speech_decoder_prenet_units": 32,
    "speech_decoder_postnet_units": 32,
    "speaker_embedding_dim": 16,
    "num_mel_bins": 80,
    "max_speech_positions": 400,
    "max_text_positions": 120,
}


def tiny_speecht5(seed: int = 0, **overrides) -> SpeechT5ForTextToSpeech:
    """In evaluation mode; every weight and every statistic of its norms is off its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpeechT5ForTextToSpeech(SpeechT5Config(**SIZES | overrides)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    randomise(model, seed)
    return model


def tiny_hifigan(seed: int = 0, **overrides) -> SpeechT5HifiGan:
    """256 samples a frame at 16 kHz, as the official one."""
    sizes = {"upsample_initial_channel": 32, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}
    config = SpeechT5HifiGanConfig(**sizes | overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocoder = SpeechT5HifiGan(config).eval()
    randomise(vocoder, seed)
    return vocoder


def tokens(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids `(B, L)`, padded with 1, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, SIZES["vocab_size"], mask.shape, generator=generator)
    return torch.where(mask == 1, ids, 1), mask


def kept_units(steps: int, seed: int = 0, units: int = SIZES["speech_decoder_prenet_units"]) -> torch.Tensor:
    """What the dropout of the pre-net keeps, `(N, 2, U)` of ones and zeros."""
    return torch.bernoulli(torch.full((steps, 2, units), 0.5), generator=torch.Generator().manual_seed(seed))


def tiny_speecht5_pipeline(tokenizer, **overrides):
    """Of tiny parts, with two speakers; keyword arguments take the place of components."""
    from dtm_hf import SpeakerTable, SpeechT5Pipeline

    generator = torch.Generator().manual_seed(7)
    speakers = SpeakerTable({name: torch.randn(16, generator=generator) for name in ("ann", "bob")})
    model = tiny_speecht5(vocab_size=tokenizer.vocab_size + 3)
    parts = {"model": model, "tokenizer": tokenizer, "vocoder": tiny_hifigan(), "speakers": speakers}
    pipeline = SpeechT5Pipeline(**parts | overrides)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
