"""
SpeechT5's encoder in the operations of Tenstorrent's `ttnn`: its parameters, and what is computed of them.

Nothing here was run on such hardware, nor with `ttnn`, which cannot be installed beside this package. The tests run
the same arithmetic with torch in its place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Place = Callable[[torch.Tensor], Any]
"""Brings a tensor to where it is computed with."""


@dataclass(frozen=True, eq=False)
class TtLinearParameters:
    """`weight` `(in, out)`, transposed as `ttnn.linear` takes it, and `bias` `(1, out)`."""

    weight: Any
    bias: Any

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], name: str, place: Place) -> "TtLinearParameters":
        return cls(place(state[f"{name}.weight"].T.contiguous()), place(state[f"{name}.bias"][None]))


@dataclass(frozen=True, eq=False)
class TtLayerNormParameters:
    """`weight` and `bias` `(1, D)`."""

    weight: Any
    bias: Any

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], name: str, place: Place) -> "TtLayerNormParameters":
        return cls(place(state[f"{name}.weight"][None]), place(state[f"{name}.bias"][None]))


@dataclass(frozen=True, eq=False)
class TtSpeechT5EncoderLayerParameters:
    """Of one layer: attention, and the feed-forward behind it, each with the norm that follows."""

    query: TtLinearParameters
    key: TtLinearParameters
    value: TtLinearParameters
    output: TtLinearParameters
    layer_norm: TtLayerNormParameters
    intermediate: TtLinearParameters
    dense: TtLinearParameters
    final_layer_norm: TtLayerNormParameters

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], name: str, place: Place) -> "TtSpeechT5EncoderLayerParameters":
        linear = {"query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj"}
        linear |= {"output": "attention.out_proj"}
        linear |= {"intermediate": "feed_forward.intermediate_dense", "dense": "feed_forward.output_dense"}
        made = {field: TtLinearParameters.of(state, f"{name}.{of}", place) for field, of in linear.items()}
        for norm in ("layer_norm", "final_layer_norm"):
            made[norm] = TtLayerNormParameters.of(state, f"{name}.{norm}", place)
        return cls(**made)


@dataclass(frozen=True, eq=False)
class TtSpeechT5EncoderParameters:
    """
    Args:
        embed_tokens: `(V, D)`.
        layers (`list` of [`TtSpeechT5EncoderLayerParameters`]): in their order.
        layer_norm ([`TtLayerNormParameters`]): before the first of them.
        alpha (`float`): scale of the positions.
        relative (`torch.Tensor` of shape `(2 P, D / H)`): vectors of relative positions, on the host, which picks
            those of a length.
    """

    embed_tokens: Any
    layers: list[TtSpeechT5EncoderLayerParameters]
    layer_norm: TtLayerNormParameters
    alpha: float
    relative: torch.Tensor

    @classmethod
    def from_torch(
        cls, state_dict: Mapping[str, torch.Tensor], device: Any, dtype: Any
    ) -> "TtSpeechT5EncoderParameters":
        """
        Of the state of a [`~transformers.SpeechT5ForTextToSpeech`], on a device of `ttnn` and in a type of it.

        Raises:
            ImportError: without `ttnn`.
        """
        return cls.of(state_dict, on_device(device, dtype))

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor], place: Place) -> "TtSpeechT5EncoderParameters":
        """As `from_torch`, with whatever brings a tensor to its place."""
        head = "speecht5.encoder."
        state = {name.removeprefix(head): tensor for name, tensor in state_dict.items() if name.startswith(head)}
        body = "wrapped_encoder."
        count = count_of(state, f"{body}layers.")
        return cls(
            embed_tokens=place(state["prenet.embed_tokens.weight"]),
            layers=[
                TtSpeechT5EncoderLayerParameters.of(state, f"{body}layers.{index}", place) for index in range(count)
            ],
            layer_norm=TtLayerNormParameters.of(state, f"{body}layer_norm", place),
            alpha=float(state["prenet.encode_positions.alpha"]),
            relative=state[f"{body}embed_positions.pe_k.weight"].detach(),
        )


def on_device(device: Any, dtype: Any) -> Place:
    """
    What brings a tensor to a device of `ttnn`, in a type of it.

    Raises:
        ImportError: without `ttnn`.
    """
    import ttnn

    return lambda tensor: ttnn.from_torch(tensor, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def count_of(state: Mapping[str, torch.Tensor], head: str) -> int:
    """How many numbered parts there are under a name."""
    return 1 + max(int(name.removeprefix(head).split(".")[0]) for name in state if name.startswith(head))


def sinusoids(length: int, dim: int) -> torch.Tensor:
    """Positions `(1, L, D)`: transformers keeps them out of the state."""
    steps = torch.arange(length)[:, None].float() * torch.exp(
        torch.arange(0, dim, 2).float() * -(torch.log(torch.tensor(10000.0)) / dim)
    )
    return torch.stack([steps.sin(), steps.cos()], dim=-1).flatten(1)[None]


def relative_positions(table: torch.Tensor, length: int) -> torch.Tensor:
    """Of the vectors `(2 P, D)` those between each two of L tokens, `(L, L, D)`."""
    furthest = len(table) // 2
    places = torch.arange(length)
    return table[(places[:, None] - places[None]).clamp(-furthest, furthest - 1) + furthest]


def encode(
    ops: Any,
    parameters: TtSpeechT5EncoderParameters,
    token_ids: Any,
    attention_mask: torch.Tensor,
    place: Place,
    num_heads: int,
    epsilon: float,
) -> Any:
    """
    The encoder, as transformers has it in evaluation mode.

    Args:
        ops: `ttnn`, or what has its operations.
        parameters ([`TtSpeechT5EncoderParameters`]): on the device.
        token_ids: `(B, L)`, on the device.
        attention_mask (`torch.Tensor` of shape `(B, L)`): 1 at tokens, 0 at padding, on the host.
        place (`Callable`): brings what the host computes to the device.
        num_heads (`int`), epsilon (`float`): of the configuration.

    Returns:
        States `(B, L, D)`, on the device.
    """
    rows, length = attention_mask.shape
    size = parameters.relative.shape[1]
    dim = size * num_heads
    # bfloat16 has no infinity to spare: what is added to a masked score is far below any other.
    masked = place((1.0 - attention_mask.float())[:, None, None] * -1e9)
    relative = place(relative_positions(parameters.relative, length).transpose(1, 2).contiguous())

    def split(states: Any) -> Any:
        return ops.permute(ops.reshape(states, (rows, length, num_heads, size)), (0, 2, 1, 3))

    states = ops.embedding(token_ids, parameters.embed_tokens)
    states = ops.add(states, place(parameters.alpha * sinusoids(length, dim)))
    states = norm(ops, states, parameters.layer_norm, epsilon)
    for layer in parameters.layers:
        query = split(ops.multiply(linear(ops, states, layer.query), size**-0.5))
        key, value = split(linear(ops, states, layer.key)), split(linear(ops, states, layer.value))
        scores = ops.matmul(query, ops.permute(key, (0, 1, 3, 2)))
        # A matrix of its own for each place of the query.
        placed = ops.reshape(ops.permute(query, (2, 0, 1, 3)), (length, rows * num_heads, size))
        bias = ops.reshape(ops.matmul(placed, relative), (length, rows, num_heads, length))
        scores = ops.add(ops.add(scores, ops.permute(bias, (1, 2, 0, 3))), masked)
        heard = ops.permute(ops.matmul(ops.softmax(scores, dim=-1), value), (0, 2, 1, 3))
        heard = linear(ops, ops.reshape(heard, (rows, length, dim)), layer.output)
        states = norm(ops, ops.add(states, heard), layer.layer_norm, epsilon)
        wide = ops.gelu(linear(ops, states, layer.intermediate))
        states = norm(ops, ops.add(states, linear(ops, wide, layer.dense)), layer.final_layer_norm, epsilon)
    return states


def linear(ops: Any, states: Any, parameters: TtLinearParameters) -> Any:
    """States `(..., in)` to `(..., out)`."""
    return ops.linear(states, parameters.weight, bias=parameters.bias)


def norm(ops: Any, states: Any, parameters: TtLayerNormParameters, epsilon: float) -> Any:
    """States `(..., D)`, normalised."""
    return ops.layer_norm(states, weight=parameters.weight, bias=parameters.bias, epsilon=epsilon)
