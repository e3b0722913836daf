"""SpeechT5 in three networks that a loop can drive, and that can be exported: text, one step, post-net."""

import torch
from torch import nn
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech


def check_text_length(input_ids: torch.Tensor, config: SpeechT5Config) -> None:
    """
    Raises:
        ValueError: for tokens `(B, L)` that are more than the encoder has positions.
    """
    if input_ids.shape[1] > config.max_text_positions:
        raise ValueError(
            f"`input_ids` must have at most {config.max_text_positions} tokens, the positions of the model, but got "
            f"{input_ids.shape[1]}; `SpeechT5Pipeline` cuts longer text."
        )


class TextNetwork(nn.Module):
    """
    The encoder, and of its answer the keys and values that every decoder layer attends to: once a text.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): whose.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech):
        super().__init__()
        self.encoder = model.speecht5.encoder
        self.attentions = nn.ModuleList(layer.encoder_attn for layer in model.speecht5.decoder.wrapped_decoder.layers)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): padded tokens.
            attention_mask (`torch.LongTensor` of shape `(B, L)`): 1 at tokens, 0 at padding.

        Returns:
            `hidden_states` `(B, L, D)`, and `cross_cache` `(K, 2, B, H, L, D / H)`: keys and values of K layers and H
            heads.
        """
        states = self.encoder(input_values=input_ids, attention_mask=attention_mask).last_hidden_state
        cache = [
            torch.stack([_split(attention, attention.k_proj(states)), _split(attention, attention.v_proj(states))])
            for attention in self.attentions
        ]
        return {"hidden_states": states, "cross_cache": torch.stack(cache)}


class EncoderNetwork(nn.Module):
    """
    The encoder alone: as of [`TextNetwork`], its `hidden_states`.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): whose.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech):
        super().__init__()
        self.encoder = model.speecht5.encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.encoder(input_values=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"hidden_states": states}


class StepNetwork(nn.Module):
    """
    One step of the decoder: the frame before to the frames after. The pre-net sees that one frame, and not all so far
    as in `generate_speech`, which uses the last of its answers alone; its dropout, which never ends, is an input.

    A cache is read and not written: what a step adds to it is an output.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): whose.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech):
        super().__init__()
        self.prenet = model.speecht5.decoder.prenet
        self.layers = model.speecht5.decoder.wrapped_decoder.layers
        self.feat_out = model.speech_decoder_postnet.feat_out
        self.prob_out = model.speech_decoder_postnet.prob_out
        self.num_mel_bins = model.config.num_mel_bins

    def forward(
        self,
        frame: torch.Tensor,
        position: torch.Tensor,
        masks: torch.Tensor,
        speaker: torch.Tensor,
        cache: torch.Tensor,
        cross_cache: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            frame (`torch.Tensor` of shape `(B, M)`): the log-mel frame before; zeros at the first step.
            position (`torch.LongTensor` of shape `(1,)`): steps so far.
            masks (`torch.Tensor` of shape `(B, P, U)`): of the dropout behind each of P layers of the pre-net, scaled.
            speaker (`torch.Tensor` of shape `(B, E)`): embedding of the speaker, of any length.
            cache (`torch.Tensor` of shape `(K, 2, B, H, S, D / H)`): keys and values of earlier steps, at any place
                from `position` on whatever.
            cross_cache (`torch.Tensor` of shape `(K, 2, B, H, L, D / H)`), attention_mask (`(B, L)`): of the text.

        Returns:
            `frames` `(B, R, M)`, before the post-net; `stop_logits` `(B, R)`; `states`
            `(K, 2, B, H, 1, D / H)`, for the place `position` of the cache.
        """
        states = self._embed(frame, position, masks, speaker)[:, None]
        past = torch.arange(cache.shape[4], device=cache.device) < position
        words = (attention_mask != 0)[:, None, None]
        added = []
        for k, layer in enumerate(self.layers):
            attention = layer.self_attn
            key, value = _split(attention, attention.k_proj(states)), _split(attention, attention.v_proj(states))
            added.append(torch.stack([key, value]))
            query = _split(attention, attention.q_proj(states) * attention.scaling)
            # The new key beside the others, and not among them: to join the two would copy the cache at each step.
            scores = (query @ cache[k, 0].transpose(-1, -2)).masked_fill(~past, float("-inf"))
            weights = torch.cat([scores, (query * key).sum(-1, keepdim=True)], dim=-1).softmax(dim=-1)
            # Where nothing has been written there may be anything, but no infinity times zero.
            heard = weights[..., :-1] @ cache[k, 1] + weights[..., -1:] * value
            states = layer.self_attn_layer_norm(states + attention.out_proj(_join(heard)))
            attention = layer.encoder_attn
            query = _split(attention, attention.q_proj(states) * attention.scaling)
            scores = (query @ cross_cache[k, 0].transpose(-1, -2)).masked_fill(~words, float("-inf"))
            read = scores.softmax(dim=-1) @ cross_cache[k, 1]
            states = layer.encoder_attn_layer_norm(states + attention.out_proj(_join(read)))
            states = layer.final_layer_norm(states + layer.feed_forward(states))
        states = states[:, 0]
        return {
            "frames": self.feat_out(states).unflatten(-1, (-1, self.num_mel_bins)),
            "stop_logits": self.prob_out(states),
            "states": torch.stack(added),
        }

    def _embed(self, frame, position, masks, speaker) -> torch.Tensor:
        """The pre-net of transformers for one frame, `(B, D)`."""
        prenet, states = self.prenet, frame
        for index, layer in enumerate(prenet.layers):
            states = layer(states).relu() * masks[:, index]
        positions = prenet.encode_positions
        states = prenet.final_layer(states) + positions.alpha * positions.pe[0].index_select(0, position)
        speaker = nn.functional.normalize(speaker)
        return prenet.speaker_embeds_layer(torch.cat([states, speaker], dim=-1)).relu()


class PostNetwork(nn.Module):
    """
    The post-net, over all frames of a text: `(B, N, M)` to `(B, N, M)`.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): whose.
    """

    def __init__(self, model: SpeechT5ForTextToSpeech):
        super().__init__()
        self.postnet = model.speech_decoder_postnet

    def forward(self, mel: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"refined": self.postnet.postnet(mel)}


def _split(attention: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """`(B, L, D)` to heads `(B, H, L, D / H)`."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def _join(states: torch.Tensor) -> torch.Tensor:
    """Heads `(B, H, L, D / H)` to `(B, L, D)`."""
    return states.transpose(1, 2).flatten(2)
