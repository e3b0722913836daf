"""
One step of SpeechT5's decoder, and its post-net, in the operations of Tenstorrent's `ttnn`.

As [`~dtm_hf.ports.ttnn_speecht5`], run with torch's operations in the place of ttnn's alone. The loop is
[`~dtm_hf.speecht5.generation.generate`]'s: what goes from step to step is a cache, which grows on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dtm_hf.ports.ttnn_speecht5 import (
    Place,
    TtLayerNormParameters,
    TtLinearParameters,
    count_of,
    linear,
    norm,
    on_device,
    sinusoids,
)

Cache = list[tuple[Any, Any]]
"""Of each layer keys and values `(B, H, S, D / H)`, on the device."""
# As of `torch.nn.BatchNorm1d`, which SpeechT5 leaves as it is.
_BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class TtSpeechT5AttentionParameters:
    """The four projections of an attention, and the norm behind it."""

    query: TtLinearParameters
    key: TtLinearParameters
    value: TtLinearParameters
    output: TtLinearParameters
    layer_norm: TtLayerNormParameters

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], name: str, place: Place) -> "TtSpeechT5AttentionParameters":
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        made = {field: TtLinearParameters.of(state, f"{name}.{of}", place) for field, of in names.items()}
        return cls(**made, layer_norm=TtLayerNormParameters.of(state, f"{name}_layer_norm", place))


@dataclass(frozen=True, eq=False)
class TtSpeechT5DecoderLayerParameters:
    """Of one layer: attention to the frames so far and to the text, and the feed-forward behind them."""

    self_attention: TtSpeechT5AttentionParameters
    cross_attention: TtSpeechT5AttentionParameters
    intermediate: TtLinearParameters
    dense: TtLinearParameters
    final_layer_norm: TtLayerNormParameters

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], name: str, place: Place) -> "TtSpeechT5DecoderLayerParameters":
        return cls(
            self_attention=TtSpeechT5AttentionParameters.of(state, f"{name}.self_attn", place),
            cross_attention=TtSpeechT5AttentionParameters.of(state, f"{name}.encoder_attn", place),
            intermediate=TtLinearParameters.of(state, f"{name}.feed_forward.intermediate_dense", place),
            dense=TtLinearParameters.of(state, f"{name}.feed_forward.output_dense", place),
            final_layer_norm=TtLayerNormParameters.of(state, f"{name}.final_layer_norm", place),
        )


@dataclass(frozen=True, eq=False)
class TtSpeechT5DecoderParameters:
    """
    Args:
        prenet (`list` of [`TtLinearParameters`]): a ReLU and the dropout that never ends follow each.
        final_layer ([`TtLinearParameters`]), speaker_embeds_layer ([`TtLinearParameters`]): behind it.
        alpha (`float`): scale of the positions.
        layers (`list` of [`TtSpeechT5DecoderLayerParameters`]): in their order.
        feat_out ([`TtLinearParameters`]), prob_out ([`TtLinearParameters`]): to frames, and to the logits of an end.
    """

    prenet: list[TtLinearParameters]
    final_layer: TtLinearParameters
    speaker_embeds_layer: TtLinearParameters
    alpha: float
    layers: list[TtSpeechT5DecoderLayerParameters]
    feat_out: TtLinearParameters
    prob_out: TtLinearParameters

    @classmethod
    def from_torch(
        cls, state_dict: Mapping[str, torch.Tensor], device: Any, dtype: Any
    ) -> "TtSpeechT5DecoderParameters":
        """
        Of the state of a [`~transformers.SpeechT5ForTextToSpeech`], on a device of `ttnn` and in a type of it.

        Raises:
            ImportError: without `ttnn`.
        """
        return cls.of(state_dict, on_device(device, dtype))

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor], place: Place) -> "TtSpeechT5DecoderParameters":
        """As `from_torch`, with whatever brings a tensor to its place."""
        prenet, body = "speecht5.decoder.prenet", "speecht5.decoder.wrapped_decoder.layers"
        return cls(
            prenet=[
                TtLinearParameters.of(state_dict, f"{prenet}.layers.{index}", place)
                for index in range(count_of(state_dict, f"{prenet}.layers."))
            ],
            final_layer=TtLinearParameters.of(state_dict, f"{prenet}.final_layer", place),
            speaker_embeds_layer=TtLinearParameters.of(state_dict, f"{prenet}.speaker_embeds_layer", place),
            alpha=float(state_dict[f"{prenet}.encode_positions.alpha"]),
            layers=[
                TtSpeechT5DecoderLayerParameters.of(state_dict, f"{body}.{index}", place)
                for index in range(count_of(state_dict, f"{body}."))
            ],
            feat_out=TtLinearParameters.of(state_dict, "speech_decoder_postnet.feat_out", place),
            prob_out=TtLinearParameters.of(state_dict, "speech_decoder_postnet.prob_out", place),
        )


@dataclass(frozen=True, eq=False)
class TtSpeechT5PostnetParameters:
    """
    Args:
        layers (`list`): of each convolution its taps, matrices `(in, out)` with the norm's scale in them, and its bias
            `(1, out)`, which is the norm's.
    """

    layers: list[tuple[list[Any], Any]]

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor], place: Place) -> "TtSpeechT5PostnetParameters":
        """Of the state of a [`~transformers.SpeechT5ForTextToSpeech`], with whatever brings a tensor to its place."""
        head, layers = "speech_decoder_postnet.layers.", []
        for index in range(count_of(state_dict, head)):
            of_norm = f"{head}{index}.batch_norm"
            scale = state_dict[f"{of_norm}.weight"] * torch.rsqrt(
                state_dict[f"{of_norm}.running_var"] + _BATCH_NORM_EPSILON
            )
            bias = state_dict[f"{of_norm}.bias"] - state_dict[f"{of_norm}.running_mean"] * scale
            taps = (state_dict[f"{head}{index}.conv.weight"] * scale[:, None, None]).permute(2, 1, 0)
            layers.append(([place(tap.contiguous()) for tap in taps], place(bias[None])))
        return cls(layers)


def cross_cache(ops: Any, parameters: TtSpeechT5DecoderParameters, states: Any, num_heads: int) -> Cache:
    """Of the encoder's states `(B, L, D)` what every layer attends to, once a text."""
    return [
        tuple(
            _split(ops, linear(ops, states, projection), num_heads)
            for projection in (layer.cross_attention.key, layer.cross_attention.value)
        )
        for layer in parameters.layers
    ]


def decode_step(
    ops: Any,
    parameters: TtSpeechT5DecoderParameters,
    frame: Any,
    position: int,
    masks: Sequence[Any],
    speaker: torch.Tensor,
    cache: Cache | None,
    words: Cache,
    attention_mask: torch.Tensor,
    place: Place,
    num_heads: int,
    epsilon: float,
) -> tuple[Any, Any, Cache]:
    """
    One step, as [`~dtm_hf.speecht5.networks.StepNetwork`] has it.

    Args:
        ops: `ttnn`, or what has its operations.
        parameters ([`TtSpeechT5DecoderParameters`]): on the device.
        frame: `(B, M)`, on the device: the frame before; zeros at the first step.
        position (`int`): steps so far.
        masks (`list`): of the dropout behind each layer of the pre-net `(B, U)`, scaled, on the device.
        speaker (`torch.Tensor` of shape `(B, E)`): embeddings of speakers, of any length, on the host.
        cache (`list`, *optional*): as the step before returned it.
        words (`list`): of [`cross_cache`].
        attention_mask (`torch.Tensor` of shape `(B, L)`): 1 at tokens, 0 at padding, on the host.
        place (`Callable`): brings what the host computes to the device.
        num_heads (`int`), epsilon (`float`): of the configuration.

    Returns:
        `tuple` of R frames side by side `(B, R M)`, before the post-net, R stop logits `(B, R)`, and the next cache.
    """
    states = frame
    for projection, mask in zip(parameters.prenet, masks, strict=True):
        states = ops.multiply(ops.relu(linear(ops, states, projection)), mask)
    states = linear(ops, states, parameters.final_layer)
    rows, dim = states.shape
    states = ops.add(states, place(parameters.alpha * sinusoids(position + 1, dim)[0, position:]))
    told = place(torch.nn.functional.normalize(speaker))
    states = ops.relu(linear(ops, ops.concat([states, told], dim=-1), parameters.speaker_embeds_layer))
    states = ops.reshape(states, (rows, 1, dim))
    masked = place((1.0 - attention_mask.float())[:, None, None] * -1e9)
    grown: Cache = []
    for index, layer in enumerate(parameters.layers):
        attention = layer.self_attention
        key, value = (
            _split(ops, linear(ops, states, projection), num_heads) for projection in (attention.key, attention.value)
        )
        if cache is not None:
            key, value = (ops.concat([past, new], dim=2) for past, new in zip(cache[index], (key, value), strict=True))
        grown.append((key, value))
        states = _attend(ops, states, attention, key, value, None, num_heads, epsilon)
        states = _attend(ops, states, layer.cross_attention, *words[index], masked, num_heads, epsilon)
        wide = ops.gelu(linear(ops, states, layer.intermediate))
        states = norm(ops, ops.add(states, linear(ops, wide, layer.dense)), layer.final_layer_norm, epsilon)
    states = ops.reshape(states, (rows, dim))
    return linear(ops, states, parameters.feat_out), linear(ops, states, parameters.prob_out), grown


def refine(ops: Any, parameters: TtSpeechT5PostnetParameters, mel: Any, place: Place) -> Any:
    """
    The post-net: log-mels `(B, N, M)` to `(B, N, M)`, on the device. A convolution is a sum over its taps, each a
    product with the frames moved by so many places, and what moves them is a matrix `(N, N)`.
    """
    frames, states = mel.shape[1], mel
    for index, (taps, bias) in enumerate(parameters.layers):
        summed = bias
        for place_of_tap, tap in enumerate(taps):
            moved = torch.eye(frames).roll(len(taps) // 2 - place_of_tap, 0)
            # What comes round from the other end is padding.
            moved = moved.tril(0) if place_of_tap < len(taps) // 2 else moved.triu(0)
            summed = ops.add(ops.matmul(ops.matmul(place(moved[None]), states), tap), summed)
        states = summed if index == len(parameters.layers) - 1 else ops.tanh(summed)
    return ops.add(mel, states)


def _split(ops: Any, states: Any, num_heads: int) -> Any:
    """`(B, L, D)` to heads `(B, H, L, D / H)`."""
    rows, length, dim = states.shape
    return ops.permute(ops.reshape(states, (rows, length, num_heads, dim // num_heads)), (0, 2, 1, 3))


def _attend(
    ops: Any,
    states: Any,
    parameters: TtSpeechT5AttentionParameters,
    key: Any,
    value: Any,
    masked: Any,
    num_heads: int,
    epsilon: float,
) -> Any:
    """Attention of one state a row, `(B, 1, D)`, with what is added to it and the norm behind."""
    rows, _, dim = states.shape
    query = _split(ops, ops.multiply(linear(ops, states, parameters.query), (dim // num_heads) ** -0.5), num_heads)
    scores = ops.matmul(query, ops.permute(key, (0, 1, 3, 2)))
    scores = scores if masked is None else ops.add(scores, masked)
    heard = ops.permute(ops.matmul(ops.softmax(scores, dim=-1), value), (0, 2, 1, 3))
    heard = linear(ops, ops.reshape(heard, (rows, 1, dim)), parameters.output)
    return norm(ops, ops.add(states, heard), parameters.layer_norm, epsilon)
