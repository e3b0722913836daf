"""`SpeechT5Reference`: what a port of SpeechT5 has to be equal to, by component and as a whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import SpeechT5ForTextToSpeech

from dtm_hf.speecht5.networks import check_text_length


@dataclass(frozen=True, eq=False)
class SpeechT5Frames:
    """
    What the decoder says of frames that it was given.

    Args:
        before (`torch.Tensor` of shape `(B, N * R, M)`), after (`torch.Tensor` of shape `(B, N * R, M)`): log-mels
            before and after the post-net, R frames for each of the N that went in.
        stop_logits (`torch.Tensor` of shape `(B, N * R)`): whether it ends there.
    """

    before: torch.Tensor
    after: torch.Tensor
    stop_logits: torch.Tensor


class SpeechT5Reference:
    """
    transformers' own SpeechT5, part by part. Dropout in the pre-net of the decoder never ends, so that two runs of the
    very same weights differ; where bits must agree its masks are given.

    Not for several threads: masks that are given are put into the model for the time of a call.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): in evaluation mode.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech):
        self.model = model.eval()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **kwargs) -> "SpeechT5Reference":
        """Load a checkpoint, such as `microsoft/speecht5_tts`, as transformers does."""
        return cls(SpeechT5ForTextToSpeech.from_pretrained(name, **kwargs))

    @property
    def components(self) -> dict[str, nn.Module]:
        """Parts by name, as they are addressed in transformers."""
        speech = self.model.speecht5
        return {
            "encoder.prenet": speech.encoder.prenet,
            "encoder.layers": speech.encoder.wrapped_encoder,
            "decoder.prenet": speech.decoder.prenet,
            "decoder.layers": speech.decoder.wrapped_decoder,
            "postnet": self.model.speech_decoder_postnet,
        }

    @torch.no_grad()
    def forward_encoder(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Tokens `(B, L)`, with a mask of 1 and 0, to states `(B, L, D)`.

        Raises:
            ValueError: for more tokens than the model has positions.
        """
        check_text_length(input_ids, self.model.config)
        return self.model.speecht5.encoder(input_values=input_ids, attention_mask=attention_mask).last_hidden_state

    @torch.no_grad()
    def forward_decoder(
        self,
        frames: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        speaker_embeddings: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> SpeechT5Frames:
        """
        All steps at once, teacher-forced.

        Args:
            frames (`torch.Tensor` of shape `(B, N, M)`): what each step has before it; the first is zero.
            encoder_hidden_states (`torch.Tensor` of shape `(B, L, D)`): result of [`forward_encoder`].
            speaker_embeddings (`torch.Tensor` of shape `(B, E)`): of the speakers.
            encoder_attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): of the tokens.
            masks (`torch.Tensor` of shape `(N, P, U)`, *optional*): 1 where the dropout of each of the P layers of the
                pre-net keeps a unit, else 0; drawn by default.
        """
        with self._masked(masks):
            states = self.model.speecht5.decoder(
                input_values=frames,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                speaker_embeddings=speaker_embeddings,
                use_cache=False,
            ).last_hidden_state
        return SpeechT5Frames(*self.model.speech_decoder_postnet(states))

    def forward(
        self,
        input_ids: torch.Tensor,
        frames: torch.Tensor,
        speaker_embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> SpeechT5Frames:
        """Encoder and decoder; arguments as of the two."""
        states = self.forward_encoder(input_ids, attention_mask)
        return self.forward_decoder(frames, states, speaker_embeddings, attention_mask, masks)

    @torch.no_grad()
    def generate_speech(
        self,
        input_ids: torch.Tensor,
        speaker_embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor | tuple:
        """transformers' own `generate_speech`, with masks `(N, P, U)` for as many steps as there may be, if given."""
        check_text_length(input_ids, self.model.config)
        with self._masked(masks):
            return self.model.generate_speech(input_ids, speaker_embeddings, attention_mask, **kwargs)

    @contextmanager
    def _masked(self, masks: torch.Tensor | None) -> Iterator[None]:
        """The pre-net with these masks in the place of those that it would draw."""
        if masks is None:
            yield
            return
        prenet, calls = self.model.speecht5.decoder.prenet, 0

        def dropout(states: torch.Tensor, p: float) -> torch.Tensor:
            nonlocal calls
            kept = masks[: states.shape[1], calls % len(prenet.layers)].to(states)
            calls += 1
            # As its own: a share of p is kept.
            return torch.where(kept == 1, states, 0) * 1 / (1 - p)

        prenet._consistent_dropout = dropout
        try:
            yield
        finally:
            del prenet._consistent_dropout


__all__ = ["SpeechT5Frames", "SpeechT5Reference"]
