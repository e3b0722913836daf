"""Configuration of the DTM flow head."""

import math
import os
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from dtm_hf.mean_mel import MeanMel
from dtm_hf.provenance import Provenance
from dtm_hf.reading import read_json
from dtm_hf.validation import naming

PREDICTIONS = ("residual", "direct", "guidance")
ARCHITECTURES = ("mlp", "conv", "transformer")
# Far beyond what makes sense, and far below what fills a machine by being asked for.
_MOST = {
    "backbone_hidden_size": 8192,
    "num_mel_bins": 1024,
    "hidden_size": 8192,
    "num_hidden_layers": 256,
    "ffn_mult": 16,
    "time_embed_dim": 8192,
    "conv_kernel_size": 1023,
    "num_attention_heads": 256,
    "attention_head_dim": 1024,
}


@strict
class DTMHeadConfig(PreTrainedConfig, Provenance):
    r"""
    Configuration of a [`DTMHead`]. The defaults are the network of the DTM documents on F5-TTS v1 Base.

    Args:
        backbone_hidden_size (`int`, defaults to 1024):
            Width D of the backbone features that the head reads.
        num_mel_bins (`int`, defaults to 100):
            Mel bins M.
        hidden_size (`int`, defaults to 512):
            Width of the head.
        num_hidden_layers (`int`, defaults to 6):
            Blocks.
        ffn_mult (`int`, defaults to 4):
            Expansion of the feed-forward networks.
        time_embed_dim (`int`, defaults to 256):
            Width of the sinusoidal embeddings of s and t.
        prediction (`str`, defaults to `"residual"`):
            `"residual"`: y_hat = v + D(h, Y_s, s, t) with D zero at the start, so that an untrained head is plain
            Euler.
            `"direct"`: the network is the flow velocity itself, as in the documents.
            `"guidance"`: y_hat = v + w d, with d the head's estimate of v_c - v_u. It reads X_t and v beside the
            features, and draws nothing: neither Y_s nor s. For a `guidance_scale_range`.
        architecture (`str`, defaults to `"mlp"`):
            `"mlp"` treats each frame alone; `"conv"` puts a depthwise temporal convolution before each FFN;
            `"transformer"`, for `"guidance"`, is a copy of the backbone's null branch with the first
            `num_hidden_layers` of its blocks.
        conv_kernel_size (`int`, defaults to 7):
            Frames that a convolution sees; odd.
        residual_layers (`int`, defaults to 0):
            With `"guidance"`: the residual stream before so many last blocks of the backbone is read as well.
        num_attention_heads (`int`, defaults to 16), attention_head_dim (`int`, defaults to 64),
        qk_norm (`str`, *optional*), pe_attn_head (`int`, *optional*):
            Of the blocks of `"transformer"`: as the backbone's, see [`F5Backbone`].
        min_flow_remainder (`float`, defaults to 0.01):
            Lower bound of 1 - s where the residual form divides by it.
        guidance_scale (`float`, *optional*):
            Guidance that training baked into the head's targets; such a head runs on the conditional branch alone.
            `None`: trained without, guided at inference.
        guidance_scale_range (`list` of two `float`, *optional*):
            Lowest and highest guidance scale that training baked in: the head is told which one to follow, and
            `guidance_scale` is the one it follows by default. `None`: there is only that one.
        guidance_end (`float`, defaults to 1.0):
            Time t from which on training baked no guidance in. A head of `"guidance"` does not run there.
        mean_mel (`list` of `float`, or `dict`, *optional*):
            Mean log-mel, as of [`~dtm_hf.mean_mel.MeanMel`]. With it a head of `"guidance"` does not run at t = 0
            either, where v_c - v_u = v_c + X_0 - mean.
        sampler (`dict`, *optional*):
            Configuration of the [`DTMScheduler`] this head was trained for.
        backbone_name, backbone_revision, backbone_fingerprint, backbone_sketch, base_model, base_model_revision,
        license, training_data, results:
            As in [`~dtm_hf.provenance.Provenance`].

    Example:

    ```python
    >>> from dtm_hf import DTMHead, DTMHeadConfig

    >>> head = DTMHead(DTMHeadConfig(architecture="conv"))
    >>> head.config.hidden_size
    512
    ```"""

    model_type = "dtm_head"

    backbone_hidden_size: int = 1024
    num_mel_bins: int = 100
    hidden_size: int = 512
    num_hidden_layers: int = 6
    ffn_mult: int = 4
    time_embed_dim: int = 256
    prediction: str = "residual"
    architecture: str = "mlp"
    conv_kernel_size: int = 7
    residual_layers: int = 0
    num_attention_heads: int = 16
    attention_head_dim: int = 64
    qk_norm: str | None = None
    pe_attn_head: int | None = None
    min_flow_remainder: float = 0.01
    guidance_scale: float | int | None = None
    guidance_scale_range: list | None = None
    guidance_end: float | int = 1.0
    mean_mel: list | dict | None = None
    sampler: dict | None = None

    def __post_init__(self, **kwargs):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"`prediction` must be one of {PREDICTIONS}, but got {self.prediction!r}.")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"`architecture` must be one of {ARCHITECTURES}, but got {self.architecture!r}.")
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must be from 1 to {most}, but got {getattr(self, name)}.")
        if self.conv_kernel_size < 1 or self.conv_kernel_size % 2 == 0:
            raise ValueError(f"`conv_kernel_size` must be odd and positive, but got {self.conv_kernel_size}.")
        if self.time_embed_dim < 4 or self.time_embed_dim % 2:
            raise ValueError(f"`time_embed_dim` must be even and at least 4, but got {self.time_embed_dim}.")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"`guidance_scale` must be a finite number or None, but got {self.guidance_scale}.")
        if not 0 <= self.guidance_end <= 1:
            raise ValueError(f"`guidance_end` must lie in [0, 1], but got {self.guidance_end}.")
        if not 0 < self.min_flow_remainder < 1:
            raise ValueError(f"`min_flow_remainder` must lie in (0, 1), but got {self.min_flow_remainder}.")
        if self.guidance_scale_range is not None:
            self._check_guidance_range()
        self._check_guidance_head()
        super().__post_init__(**kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        content = read_json(json_file)
        with naming(json_file):
            cls(**content)
        return content

    def _check_guidance_range(self) -> None:
        given = self.guidance_scale_range
        if len(given) != 2 or not all(_is_finite(scale) for scale in given) or not 1 <= given[0] < given[1]:
            raise ValueError(
                "`guidance_scale_range` must be a lowest and a higher highest scale, from 1 on, or None, but got "
                f"{given}."
            )
        if self.guidance_scale is None or not given[0] <= self.guidance_scale <= given[1]:
            raise ValueError(
                f"`guidance_scale` must be the default within `guidance_scale_range` {given}, but got "
                f"{self.guidance_scale}."
            )

    @property
    def num_features(self) -> int:
        """Width of what the head reads of a frame: see [`~dtm_hf.backbone.contract.F5BackboneOutput.joined`]."""
        if self.prediction != "guidance":
            return self.backbone_hidden_size
        return self.backbone_hidden_size * (2 if self.residual_layers else 1) + 2 * self.num_mel_bins

    def _check_guidance_head(self) -> None:
        guidance = self.prediction == "guidance"
        if not 0 <= self.residual_layers <= 256 or (self.residual_layers and not guidance):
            raise ValueError(
                "`residual_layers` must be from 0 to 256, and 0 for another `prediction` than 'guidance', but got "
                f"{self.residual_layers} with {self.prediction!r}."
            )
        if guidance and self.guidance_scale_range is None:
            raise ValueError("`guidance_scale_range` must be given for a `prediction` of 'guidance', but got None.")
        if self.mean_mel is not None:
            MeanMel.of(self.mean_mel, self.num_mel_bins)
        if self.architecture == "transformer":
            fits = self.hidden_size == self.backbone_hidden_size and self.residual_layers == self.num_hidden_layers
            if not guidance or not fits:
                raise ValueError(
                    "`architecture` may be 'transformer' for a `prediction` of 'guidance', with the `hidden_size` of "
                    f"the backbone, {self.backbone_hidden_size}, and as many `residual_layers` as "
                    f"`num_hidden_layers`, but got {self.prediction!r}, {self.hidden_size}, {self.residual_layers} "
                    f"and {self.num_hidden_layers}."
                )
        if self.qk_norm not in (None, "rms_norm"):
            raise ValueError(f"`qk_norm` must be 'rms_norm' or None, but got {self.qk_norm!r}.")
        if self.pe_attn_head is not None and not 1 <= self.pe_attn_head <= self.num_attention_heads:
            raise ValueError(
                f"`pe_attn_head` must be from 1 to `num_attention_heads`, {self.num_attention_heads}, or None, but "
                f"got {self.pe_attn_head}."
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["DTMHeadConfig"]
