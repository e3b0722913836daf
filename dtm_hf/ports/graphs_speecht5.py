"""The graphs of SpeechT5 and of its vocoder."""

import torch
from torch import nn
from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan

from dtm_hf.ports.graph import FRAMES, ROWS, TOKENS, Graph, example_mask
from dtm_hf.speecht5.networks import PostNetwork, StepNetwork, TextNetwork


def speecht5_graphs(model: SpeechT5ForTextToSpeech) -> list[Graph]:
    """The graphs of a model in evaluation mode: text, one step with its cache, post-net."""
    config = model.config
    heads = config.decoder_attention_heads
    cache = (config.decoder_layers, 2, ROWS, heads, FRAMES, config.hidden_size // heads)
    mel = (ROWS, FRAMES, config.num_mel_bins)
    attention_mask = example_mask(TOKENS).long()
    units = (config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
    text = {
        "input_ids": torch.randint(3, config.vocab_size, (ROWS, TOKENS)),
        "attention_mask": attention_mask,
    }
    step = {
        "frame": torch.randn(ROWS, config.num_mel_bins),
        "position": torch.tensor([5]),
        "masks": torch.bernoulli(torch.full((ROWS, *units), 0.5)) * 2,
        "speaker": torch.randn(ROWS, config.speaker_embedding_dim),
        "cache": torch.randn(cache),
        "cross_cache": torch.randn(*cache[:4], TOKENS, cache[5]),
        "attention_mask": attention_mask,
    }
    step_axes = {
        **dict.fromkeys(("frame", "masks", "speaker"), (0,)),
        **dict.fromkeys(("cache", "cross_cache"), (2, 4)),
        "attention_mask": (0, 1),
    }
    return [
        Graph("text", TextNetwork(model), text, dict.fromkeys(text, (0, 1))),
        Graph("step", StepNetwork(model), step, step_axes),
        Graph("postnet", PostNetwork(model), {"mel": torch.randn(mel)}, {"mel": (0, 1)}),
    ]


class HifiGanGraph(nn.Module):
    """All of a [`~transformers.SpeechT5HifiGan`]: log-mels `(B, N, M)` to waveforms `(B, T)`."""

    def __init__(self, vocoder: SpeechT5HifiGan):
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"waveform": self.vocoder(mel)}


def hifigan_graphs(vocoder: SpeechT5HifiGan) -> list[Graph]:
    """The graph of a vocoder in evaluation mode."""
    mel = torch.randn(ROWS, FRAMES, vocoder.config.model_in_dim)
    return [Graph("vocoder", HifiGanGraph(vocoder), {"mel": mel}, {"mel": (0, 1)})]
