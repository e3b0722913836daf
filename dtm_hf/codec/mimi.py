"""
Mimi (arXiv 2410.00037): recordings to codes and codes to speech. The networks are those of transformers; here is what
a pipeline and a corpus need around them.
"""

import hashlib
import os
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.mimi.modeling_mimi import MimiConv1d, MimiEuclideanCodebook, MimiModel

SAMPLING_RATE = 24000


def load_codec(name: str | os.PathLike = "kyutai/mimi", decoder_only: bool = False, **hub) -> MimiModel:
    """
    Args:
        name (`str` or `os.PathLike`): folder, or Hub id.
        decoder_only (`bool`, defaults to `False`): leave out the encoder, which only recordings need.
        hub: as in `MimiModel.from_pretrained`.

    Raises:
        ValueError: if it codes sound at another rate than 24 kHz.
    """
    codec = MimiModel.from_pretrained(name, **({"encoder_config": None} if decoder_only else {}), **hub).eval()
    if codec.config.sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"`codec` {os.fspath(name)!r} must code sound of {SAMPLING_RATE} Hz, but is for "
            f"{codec.config.sampling_rate} Hz."
        )
    keep_sizes_on_cpu(codec)
    return codec


def keep_sizes_on_cpu(codec: MimiModel) -> None:
    """
    Let the convolutions' sizes stay on the CPU wherever the weights go. Each call computes its paddings of them, and
    as the buffers that they are they would be read from a GPU, which each convolution would wait for.
    """
    for module in codec.modules():
        if isinstance(module, MimiConv1d):
            for name in ("stride", "kernel_size", "padding_total"):
                size = int(getattr(module, name))
                delattr(module, name)
                # A tensor of its own, no longer a buffer: those move.
                setattr(module, name, torch.tensor(size))


def num_frames(codec: MimiModel, num_samples: int) -> int:
    """Frames of a recording: whole and begun ones, of `config.frame_size` samples each (1920 in Mimi)."""
    return -(-num_samples // codec.config.frame_size)


@torch.no_grad()
def encode_recordings(
    codec: MimiModel, waveforms: Sequence[torch.Tensor], num_codebooks: int | None = None
) -> list[torch.Tensor]:
    """
    Codes of recordings, as one batch. Each gets what it gets alone: it ends with zeros up to a whole frame, and what
    comes behind is not heard, for the encoder is causal (it takes no padding mask).

    Args:
        codec (`MimiModel`): with an encoder.
        waveforms (sequence of `torch.Tensor` of shape `(T_i,)`): at 24 kHz.
        num_codebooks (`int`, *optional*): K, the first ones; all by default.

    Returns:
        `list` of `torch.LongTensor` of shape `(K, num_frames(T_i))`.

    Raises:
        ValueError: for an empty waveform, or more codebooks than there are.
    """
    _check_num_codebooks(codec, num_codebooks)
    sizes = [len(waveform) for waveform in waveforms]
    if min(sizes, default=0) < 1:
        raise ValueError(f"`waveforms` must hold recordings with samples, but got sizes {sizes}.")
    frames = [num_frames(codec, size) for size in sizes]
    codes = codec.encode(whole_frames(codec, waveforms), num_quantizers=num_codebooks).audio_codes
    return [row[:, :length] for row, length in zip(codes, frames, strict=True)]


def whole_frames(codec: MimiModel, waveforms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Waveforms `(T_i,)` as `(B, 1, T)`, with zeros behind their ends up to the whole frames of the longest."""
    size = max(num_frames(codec, len(waveform)) for waveform in waveforms) * codec.config.frame_size
    batch = torch.zeros(len(waveforms), 1, size, device=codec.device, dtype=codec.dtype)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[0, : len(waveform)] = waveform
    return batch


@torch.no_grad()
def decode_codes(codec: MimiModel, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """
    Speech of codes, as one batch; each gets what it gets alone.

    Args:
        codec (`MimiModel`): with a decoder.
        codes (sequence of `torch.LongTensor` of shape `(K, F_i)`): of the first K codebooks.

    Returns:
        `list` of `torch.Tensor` of shape `(F_i * frame_size,)`, float32.

    Raises:
        ValueError: for codes that the codebooks do not have.
    """
    for item in codes:
        check_codes(codec, item)
    batch = pad_sequence([item.T for item in codes], batch_first=True).transpose(1, 2).to(codec.device)
    waveforms = codec.decode(batch).audio_values[:, 0].float()
    return [row[: item.shape[1] * codec.config.frame_size] for row, item in zip(waveforms, codes, strict=True)]


@torch.no_grad()
def latents_of_codes(codec: MimiModel, codes: torch.Tensor) -> torch.Tensor:
    """
    The latents that codes `(B, K, F)` stand for, `(B, M, F)`, M the codec's `hidden_size`, float32; what the decoder
    makes of them is to the bit what it makes of the codes. Codes are not checked.
    """
    return codec.quantizer.decode(codes.to(codec.device)).float()


@torch.no_grad()
def decode_latents(codec: MimiModel, latents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """
    Speech of latents, as one batch; each gets what it gets alone.

    Args:
        codec (`MimiModel`): with a decoder.
        latents (sequence of `torch.Tensor` of shape `(M, F_i)`): M the codec's `hidden_size`, of codes or drawn.

    Returns:
        `list` of `torch.Tensor` of shape `(F_i * frame_size,)`, float32.

    Raises:
        ValueError: for latents of another shape, or such as are not finite.
    """
    for item in latents:
        check_latents(codec, item)
    batch = pad_sequence([item.T for item in latents], batch_first=True).transpose(1, 2).to(codec.device, codec.dtype)
    waveforms = codec.decoder(batch).audio_values[:, 0].float()
    return [row[: item.shape[1] * codec.config.frame_size] for row, item in zip(waveforms, latents, strict=True)]


def check_latents(codec: MimiModel, latents: torch.Tensor) -> None:
    """
    Raises:
        ValueError: if they are no finite numbers `(M, F)`.
    """
    width = codec.config.hidden_size
    if latents.ndim != 2 or not latents.is_floating_point() or len(latents) != width or not latents.shape[1]:
        raise ValueError(
            f"`latents` must be numbers of shape ({width}, frames), but got {latents.dtype} of shape "
            f"{tuple(latents.shape)}."
        )
    if not bool(latents.isfinite().all()):
        raise ValueError("`latents` must be finite, but some are not.")


def check_codes(codec: MimiModel, codes: torch.Tensor) -> None:
    """
    Raises:
        ValueError: if they are no whole numbers `(K, F)` of entries that the codec's codebooks have.
    """
    if codes.ndim != 2 or codes.is_floating_point() or not codes.shape[1]:
        raise ValueError(
            f"`codes` must be whole numbers of shape (codebooks, frames), but got {codes.dtype} of shape "
            f"{tuple(codes.shape)}."
        )
    _check_num_codebooks(codec, len(codes))
    low, high = (int(bound) for bound in codes.aminmax())
    if low < 0 or high >= codec.config.codebook_size:
        raise ValueError(f"`codes` must lie in [0, {codec.config.codebook_size}), but got {low} to {high}.")


def _check_num_codebooks(codec: MimiModel, number: int | None) -> None:
    least, most = codec.config.num_semantic_quantizers, codec.config.num_quantizers
    if number is not None and not least <= number <= most:
        raise ValueError(f"`num_codebooks` must lie in [{least}, {most}] for this codec, but got {number}.")


# Codebooks


def refresh_codebooks(codec: MimiModel) -> None:
    """
    Let a codec see codebooks that were changed after their first use: the class keeps a copy that neither
    `load_state_dict` nor a move to another device renews.
    """
    for module in codec.modules():
        if isinstance(module, MimiEuclideanCodebook):
            module._embed = None


@torch.no_grad()
def fill_codebooks(
    codec: MimiModel, waveforms: Sequence[torch.Tensor], num_rounds: int = 10, generator: torch.Generator | None = None
) -> None:
    """
    Fill the codebooks of a new codec with what its encoder makes of some recordings: k-means (Lloyd) of the latents,
    then of what each codebook leaves of them. New codebooks are zero, so that every code would be 0.

    Args:
        codec (`MimiModel`): changed.
        waveforms (sequence of `torch.Tensor` of shape `(T_i,)`): at 24 kHz; together with more frames than a codebook
            has entries.
        num_rounds (`int`): of k-means.
        generator (`torch.Generator`, *optional*): of the first centres.

    Raises:
        ValueError: for fewer frames than entries.
    """
    refresh_codebooks(codec)
    # One by one, for they may be many.
    batches = (whole_frames(codec, [waveform]) for waveform in waveforms)
    latents = torch.cat([codec.encoder(batch).latents[0].T.float() for batch in batches])
    if len(latents) < codec.config.codebook_size:
        raise ValueError(
            f"`waveforms` must have a frame for each of {codec.config.codebook_size} entries of a codebook, but have "
            f"{len(latents)}."
        )
    split = codec.quantizer
    for quantizer in (split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer):
        residual = latents if quantizer.input_proj is None else quantizer.input_proj(latents.T[None])[0].T
        for layer in quantizer.layers:
            book = layer.codebook
            centres = _k_means(residual, book.codebook_size, num_rounds, generator)
            book.embed_sum.copy_(centres)
            book.cluster_usage.fill_(1.0)
            book._embed = None
            residual = residual - centres[book.quantize(residual)]


def _k_means(points: torch.Tensor, size: int, num_rounds: int, generator: torch.Generator | None) -> torch.Tensor:
    order = torch.randperm(len(points), generator=generator)[:size]
    centres = points[order.to(points.device)].clone()
    for _ in range(num_rounds):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        counts = torch.zeros(size, device=points.device).index_add_(0, nearest, torch.ones_like(points[:, 0]))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        # A centre that is nearest to nothing stays where it is.
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


def codec_fingerprint(codec: MimiModel) -> str:
    """16 hexadecimal digits that differ when the weights or codebooks that make codes do."""
    digest = hashlib.sha256()
    for name, value in sorted(codec.state_dict().items()):
        # The decoder changes no code.
        if name.startswith(("encoder", "quantizer")):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
