"""Backbone, head and vocoder on graphs of any runtime, in numpy: the contracts of their rooms without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtm_hf.runtime.manifest import RunGraph
from dtm_hf.runtime.spectra import hann_window, istft


@dataclass(frozen=True, eq=False)
class TextEmbeds:
    """Text as the DiT sees it, `(B, N, C)`: of the words, and of what stands in their place in the null branch."""

    cond: np.ndarray
    null: np.ndarray


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """Of a pass: see [`~dtm_hf.backbone.contract.F5BackboneOutput`]."""

    features: np.ndarray
    velocity: np.ndarray
    residual: np.ndarray | None = None

    def joined(self, sample: np.ndarray) -> np.ndarray:
        """All that a pass of the conditional branch tells of X_t `(B, N, M)`, side by side."""
        parts = [part for part in (self.features, self.residual, self.velocity) if part is not None]
        return np.concatenate([*parts, sample], axis=-1)


class Backbone:
    """
    The contract of [`~dtm_hf.backbone.contract.Backbone`].

    Args:
        config (`dict`): of the [`F5Backbone`] that the graphs were made of.
        graphs (`dict[str, Callable]`): `text` and `backbone`.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.config, self.graphs = config, graphs

    def encode_text(
        self,
        token_ids: Sequence[np.ndarray],
        lengths: Sequence[int],
        num_frames: int,
        with_null: bool = True,
        durations: Sequence[np.ndarray] | None = None,
    ) -> TextEmbeds:
        """
        Args:
            token_ids (`list` of `np.ndarray` of shape `(L_i,)`): of each row, without padding.
            lengths (`list[int]`): frames of each row.
            num_frames (`int`): N, of the longest.
            with_null (`bool`, defaults to `True`): `False` spares the null branch; `null` is then `cond`.
            durations (`list` of `np.ndarray` of shape `(L_i,)`, *optional*): frames of each token, for a backbone that
                is told.
        """
        size = (len(token_ids), num_frames, self.config["text_dim"])
        cond = np.zeros(size, dtype=np.float32)
        null = np.zeros(size, dtype=np.float32) if with_null else cond
        for row, (ids, length) in enumerate(zip(token_ids, lengths, strict=True)):
            if durations is not None:
                # The null branch knows neither the words nor their times.
                spoken = self._embed(ids[None] + 1, np.ones((1, len(ids)), dtype=bool))[0]
                spread = repeat_tokens(spoken, durations[row])[:num_frames]
                cond[row, : len(spread)] = spread
                continue
            ids = np.pad(ids[:length] + 1, (0, max(0, length - len(ids))))
            valid = ids > 0
            branches = np.stack([ids, np.zeros_like(ids)] if with_null else [ids])
            embeds = self._embed(branches, np.broadcast_to(valid, branches.shape))
            if self.config["text_embedding_average_upsampling"] and valid.any():
                even = even_durations(int(valid.sum()), length)
                embeds = np.stack([repeat_tokens(branch[valid], even) for branch in embeds])
            cond[row, :length] = embeds[0]
            if with_null:
                null[row, :length] = embeds[1]
        return TextEmbeds(cond, null)

    def _embed(self, token_ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return self.graphs["text"](token_ids=token_ids.astype(np.int64), valid=np.ascontiguousarray(valid))["embeds"]

    def __call__(
        self,
        sample: np.ndarray,
        timestep: float | np.ndarray,
        cond: np.ndarray,
        text_embeds: TextEmbeds,
        attention_mask: np.ndarray | None = None,
        branch: str = "cond",
        num_steps: int | None = None,
        residual_layers: int = 0,
    ) -> BackboneOutput:
        """
        Features `(B, N, D)` and velocity `(B, N, M)` of X_t at t; of 2B rows with `branch="both"`. With
        `residual_layers`, which must be the number that the graph was exported with, the residual stream too.
        """
        text = {"cond": text_embeds.cond, "null": text_embeds.null}
        if attention_mask is None:
            attention_mask = np.ones(sample.shape[:2], dtype=bool)
        rows = ["cond", "null"] if branch == "both" else [branch]
        inputs = {
            "sample": np.concatenate([sample] * len(rows)),
            "timestep": np.tile(np.broadcast_to(np.float32(timestep), len(sample)), len(rows)),
            "cond": np.concatenate([cond if row == "cond" else np.zeros_like(cond) for row in rows]),
            "text_embeds": np.concatenate([text[row] for row in rows]),
            "attention_mask": np.concatenate([attention_mask] * len(rows)),
            "num_steps": np.full(len(sample) * len(rows), num_steps or 1, dtype=np.int64),
        }
        outputs = self.graphs["backbone"](**inputs)
        residual = outputs["residual"] if residual_layers else None
        return BackboneOutput(outputs["features"], outputs["velocity"], residual)


class Head:
    """
    The contract of [`~dtm_hf.head.contract.Head`].

    Args:
        config (`dict`): of the [`DTMHead`] that the graphs were made of.
        graphs (`dict[str, Callable]`): `modulation`, `prepare` and `head`.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.config, self.graphs = config, graphs

    def prepare_schedule(
        self, timesteps: np.ndarray, flow_times: np.ndarray, guidance_scale: float | None = None
    ) -> np.ndarray:
        """Modulations `(T, S, 1, K)` of every pair of a global time `(T,)` and an inner time `(S,)`."""
        pairs = [grid.reshape(-1).astype(np.float32) for grid in np.meshgrid(timesteps, flow_times, indexing="ij")]
        if guidance_scale is None:
            guidance_scale = self.config["guidance_scale"]
        scale = np.full(len(pairs[0]), 1.0 if guidance_scale is None else guidance_scale, dtype=np.float32)
        outputs = self.graphs["modulation"](timestep=pairs[0], flow_time=pairs[1], guidance_scale=scale)
        return outputs["modulation"].reshape(len(timesteps), len(flow_times), 1, -1)

    def prepare(self, features: np.ndarray) -> np.ndarray:
        """Features `(B, N, D)` to `(B, N, H)`, once a global step."""
        return self.graphs["prepare"](features=features)["prepared_states"]

    def __call__(
        self,
        prepared_states: np.ndarray,
        flow_state: np.ndarray,
        flow_time: float,
        velocity: np.ndarray,
        modulation: np.ndarray,
        attention_mask: np.ndarray | None = None,
    ) -> np.ndarray:
        """The velocity g `(B, N, M)` at Y_s; `modulation` is an entry of [`~Head.prepare_schedule`]."""
        if attention_mask is None:
            attention_mask = np.ones(flow_state.shape[:2], dtype=bool)
        return self.graphs["head"](
            prepared_states=prepared_states,
            flow_state=flow_state,
            flow_time=np.float32([flow_time]),
            velocity=velocity,
            attention_mask=attention_mask,
            modulation=modulation,
        )["flow_velocity"]


class Vocos:
    """
    A [`VocosVocoder`] whose inverse Fourier transform is numpy's.

    Args:
        config (`dict`): of the vocoder that the graph was made of.
        graphs (`dict[str, Callable]`): `vocoder`.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.config, self.graphs = config, graphs
        self.sampling_rate, self.hop_length = config["sampling_rate"], config["hop_length"]

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel `(N, M)` to a waveform as long as the torch vocoder's, float32."""
        outputs = self.graphs["vocoder"](mel=mel[None].astype(np.float32))
        spectra = outputs["real"][0] + 1j * outputs["imaginary"][0]
        n_fft, same = self.config["n_fft"], self.config["padding"] == "same"
        trim = (n_fft - self.hop_length) // 2 if same else None
        return istft(spectra, n_fft, self.hop_length, hann_window(n_fft), trim)


def even_durations(num_tokens: int, num_frames: int) -> np.ndarray:
    """Frames of each token where they are spread evenly, the last ones longer: `average_upsample_text_by_mask`."""
    durations = np.full(num_tokens, num_frames // num_tokens)
    durations[num_tokens - num_frames % num_tokens :] += 1
    return durations


def repeat_tokens(embeds: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Each token `(L, C)` repeated for its frames `(L,)`."""
    return np.repeat(embeds, durations, axis=0)
