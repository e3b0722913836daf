"""
What tells the weights of a backbone from those of another, whatever type they are stored in.

Two marks. The fingerprint is exact: one weight that differs makes another, but so does a type with another rounding
than bfloat16 has. The sketch is measured: it gives the relative distance of two sets of weights, and how finely each
of them is rounded, so that a copy that went through float16, eight bits or fewer is known by it.
"""

import base64
import hashlib
import json
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from dtm_hf.provenance import Provenance

_NUM_PROJECTIONS = 16
# Neighbours in a row that are compared to find its levels, and weights of a matrix that are looked at.
_NEIGHBOURS = 8
_LOOKED_AT = 65536
# The rounding error of a quantiser, relative to the weights, is 0.5 to 1 times the chance that two weights of a row
# are equal: 0.51 for evenly spaced levels of a normal distribution, 0.9 for floating point. The distance of 16
# projections is within a factor of 1.6.
_MARGIN = 2.5
# Weights farther apart than this are another backbone's, however few levels they have.
_FARTHEST = 0.5
# Float32 weights are known to this, and so often are two of them equal.
_FLOAT32 = 1e-6
# Bfloat16 has 1.7e-3, eight bits of any kind 2e-2.
_BFLOAT16_ROUNDING = 6e-3


def weights_fingerprint(module: nn.Module) -> str:
    """
    SHA-256 over names, shapes and bfloat16 values of all parameters, as 16 hexadecimal digits.

    Rounded to bfloat16 so that a float32 and a bfloat16 copy of the same weights agree. Of copies in other types,
    [`WeightsSketch`] tells whether they are the same.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy())
    return digest.hexdigest()[:16]


def fingerprint_of(module: nn.Module) -> str:
    """[`weights_fingerprint`] of a module; of a port, whose weights are in its graphs, that of what it was made of."""
    return getattr(module, "fingerprint", None) or weights_fingerprint(module)


def component_fingerprint(component: Any) -> str:
    """
    SHA-256 of all that decides what a component of a pipeline does, as 16 hexadecimal digits: its class, its
    configuration or vocabulary, its weights, and of a port how these are kept.

    Args:
        component: a network, a port, a scheduler, a tokenizer, or a user's own that has no configuration.
    """
    config = getattr(component, "config", {})
    if hasattr(component, "get_vocab"):
        config = {"vocabulary": component.get_vocab(), "words": sorted(getattr(component, "words", None) or ())}
    elif hasattr(component, "to_dict") or hasattr(config, "to_dict"):
        config = (component if hasattr(component, "to_dict") else config).to_dict()
    # What begins with an underscore, and the version, says where it was loaded from and by whom.
    config = {name: config[name] for name in config if not name.startswith("_") and name != "transformers_version"}
    manifest = getattr(component, "manifest", None)
    parts = {
        "class": type(component).__name__,
        "config": config,
        "weights": fingerprint_of(component) if isinstance(component, nn.Module) else None,
        "port": None if manifest is None else asdict(manifest),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class WeightsSketch:
    """
    Random projections of all weights: their distance in two sketches is about that of the weights (Charikar, Chen and
    Farach-Colton 2002, the count sketch).

    Args:
        norm (`float`): of all weights.
        rounding (`float`): the chance that two weights of a row are equal, which grows with the steps between them.
        projections (`tuple` of 16 `float`): each the sum of a sixteenth of the weights, with signs that their names
            determine.
    """

    norm: float
    rounding: float
    projections: tuple[float, ...]

    _FORMAT = f"<{2 + _NUM_PROJECTIONS}f"

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """
        The sketch of a module's parameters, quantised ones included.

        Raises:
            ValueError: if a parameter's values cannot be told from what it holds.
        """
        square, equal, pairs = 0.0, 0, 0
        projections = np.zeros(_NUM_PROJECTIONS)
        for name, values in _values(module):
            projections += _project(name, values)
            square += float(values.double().square().sum())
            found = _count_equal_neighbours(values)
            equal, pairs = equal + found[0], pairs + found[1]
        return cls(square**0.5, equal / max(pairs, 1), tuple(projections.tolist()))

    def __str__(self) -> str:
        packed = struct.pack(self._FORMAT, self.norm, self.rounding, *self.projections)
        return base64.b64encode(packed).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        From what `str` gives.

        Raises:
            ValueError: if it is anything else.
        """
        try:
            norm, rounding, *projections = struct.unpack(cls._FORMAT, base64.b64decode(text, validate=True))
        except (ValueError, TypeError, struct.error) as error:
            raise ValueError(f"A sketch must be what dtm-hf wrote, but got {text!r}.") from error
        return cls(norm, rounding, tuple(projections))

    def same_weights(self, other: "WeightsSketch") -> bool:
        """Whether the two differ by no more than rounding to the coarser of their steps."""
        tolerance = _MARGIN * (self.rounding + other.rounding) + _FLOAT32
        # A distance that is not a number is none.
        return self.distance(other) <= min(tolerance, _FARTHEST)

    def distance(self, other: "WeightsSketch") -> float:
        """About the norm of the difference of the weights, relative to theirs."""
        norm = (self.norm * other.norm) ** 0.5
        return float(np.linalg.norm(np.subtract(self.projections, other.projections))) / norm if norm else 0.0


def _values(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and float32 values of each parameter, on the CPU."""
    for prefix, part in sorted(module.named_modules()):
        for name, parameter in sorted(part.named_parameters(prefix, recurse=False)):
            yield name, _dequantized(name, parameter, part).detach().to("cpu", torch.float32)


def _dequantized(name: str, parameter: nn.Parameter, part: nn.Module) -> torch.Tensor:
    if type(parameter).__name__ in ("Params4bit", "Int8Params"):
        from diffusers.quantizers.bitsandbytes.utils import dequantize_bnb_weight

        return dequantize_bnb_weight(parameter, getattr(part, "state", None))
    if type(parameter) is not nn.Parameter and hasattr(parameter, "dequantize"):
        # torchao's and quanto's own kinds of tensor.
        return parameter.dequantize()
    if not parameter.is_floating_point():
        raise ValueError(f"The values of {name!r} cannot be told from its {parameter.dtype}.")
    return parameter


def _project(name: str, values: torch.Tensor) -> np.ndarray:
    """The sums `(16,)` over every sixteenth value, each with a sign of its own."""
    flat = values.flatten().numpy()
    # The bits of a bit generator never change between versions of NumPy, as its distributions may.
    words = np.random.PCG64(zlib.crc32(name.encode())).random_raw(-(-len(flat) // 64))
    signs = np.unpackbits(words.astype("<u8").view(np.uint8))[: len(flat)]
    signed = np.where(signs, flat, -flat)
    signed = np.pad(signed, (0, -len(signed) % _NUM_PROJECTIONS))
    return signed.reshape(-1, _NUM_PROJECTIONS).sum(axis=0, dtype=np.float64)


def _count_equal_neighbours(values: torch.Tensor) -> tuple[int, int]:
    """Pairs of weights of a row that are as large as each other, and pairs that were compared."""
    if values.ndim < 2:
        # Vectors are not quantised, and some begin as constants.
        return 0, 0
    rows = values.flatten(1)
    rows = rows[: -(-_LOOKED_AT // rows.shape[1])].abs()
    equal = pairs = 0
    for shift in range(1, min(_NEIGHBOURS + 1, rows.shape[1])):
        one, other = rows[:, shift:], rows[:, :-shift]
        counted = (one > 0) | (other > 0)
        equal += int(((one == other) & counted).sum())
        pairs += int(counted.sum())
    return equal, pairs


def other_backbone(recorded: Provenance, backbone: nn.Module) -> str | None:
    """
    `None` for the [`F5Backbone`] that this was trained on, up to rounding to the types that the two are stored in;
    else the two side by side, to end a message.

    Where nothing but a fingerprint is recorded, and the backbone went through a type that is rounded otherwise than
    bfloat16, the names decide, with a warning.
    """
    if recorded.backbone_fingerprint in (None, backbone.fingerprint):
        return None
    name = recorded.backbone_name
    if recorded.backbone_sketch is not None:
        try:
            # A port has no weights of its own to measure, and says what it was made of.
            sketch = getattr(backbone, "sketch", None) or WeightsSketch.of(backbone)
            same = sketch.same_weights(WeightsSketch.parse(recorded.backbone_sketch))
        except ValueError as error:
            raise ValueError(f"`backbone_sketch` cannot be compared: {error}") from error
    else:
        same = _is_rounded_otherwise(backbone) and name == backbone.config.name
        if same:
            warnings.warn(
                f"Whether `backbone` has the weights of {name!r} (fingerprint {recorded.backbone_fingerprint}) cannot "
                "be told, for they are rounded: the name alone is the same.",
                stacklevel=2,
            )
    if same:
        return None
    return (
        f"backbone {name!r} (revision {recorded.backbone_revision}, fingerprint {recorded.backbone_fingerprint}), but "
        f"`backbone` is {backbone.config.name!r} (revision {backbone.config.revision}, fingerprint "
        f"{backbone.fingerprint})."
    )


def _is_rounded_otherwise(module: nn.Module) -> bool:
    """Whether the weights have fewer values than float32 has, and other ones, or fewer, than bfloat16 has."""
    try:
        rounding = WeightsSketch.of(module).rounding
    except ValueError:
        return True
    if rounding < _FLOAT32 * 10:
        return False
    in_bfloat16 = all(torch.equal(values, values.bfloat16().float()) for _, values in _values(module))
    return not in_bfloat16 or rounding > _BFLOAT16_ROUNDING
