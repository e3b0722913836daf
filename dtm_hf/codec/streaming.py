"""Speech from codes as they come, equal to that of the whole."""

import torch
from transformers.cache_utils import DynamicCache
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import check_codes, check_latents, latents_of_codes


class StreamingDecoder:
    """
    Decodes one utterance piece by piece. transformers' own streaming keeps the keys and values of the decoder's
    transformer, but nothing of its convolutions, which then hear silence before each piece. Here each piece brings
    what they look back on: the last latent frame for the upsampling, and the transformer's last frames for the
    convolutions behind it.

    Args:
        codec (`MimiModel`): with a decoder.
    """

    def __init__(self, codec: MimiModel):
        self.codec = codec
        config = codec.config
        # So far the first convolution looks back; the transposed ones behind it together less than two frames.
        self._look_back = config.kernel_size - 1 + 2
        self._cache = DynamicCache(config=codec.decoder.config)
        self._latent: torch.Tensor | None = None
        self._states: torch.Tensor | None = None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """
        Args:
            codes (`torch.LongTensor` of shape `(K, F)`, or `torch.Tensor` of shape `(M, F)`): the next frames, one
                or more, as codes or as latents.

        Returns:
            `torch.Tensor` of shape `(F * frame_size,)`, float32: their sound.

        Raises:
            ValueError: for codes that the codebooks do not have, and latents of another width.
        """
        decoder = self.codec.decoder
        if codes.is_floating_point() and codes.ndim == 2 and len(codes) == self.codec.config.hidden_size:
            check_latents(self.codec, codes)
            latents = codes[None].to(self.codec.device, self.codec.dtype)
        else:
            check_codes(self.codec, codes)
            latents = latents_of_codes(self.codec, codes[None]).to(self.codec.dtype)
        before = latents if self._latent is None else torch.cat([self._latent, latents], dim=2)
        upsampled = before if decoder.upsample is None else decoder.upsample(before)
        new = upsampled[:, :, -(upsampled.shape[2] // before.shape[2]) * latents.shape[2] :]
        states = decoder.decoder_transformer(
            new.transpose(1, 2), past_key_values=self._cache, use_cache=True
        ).last_hidden_state.transpose(1, 2)
        context = states if self._states is None else torch.cat([self._states, states], dim=2)
        sound = decoder.decoder_seanet(context)[0, 0]
        self._latent, self._states = latents[:, :, -1:], context[:, :, -self._look_back :]
        return sound[-latents.shape[2] * self.codec.config.frame_size :].float()
