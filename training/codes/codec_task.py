"""The task of training a codec."""

import functools
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from transformers import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import (
    SAMPLING_RATE,
    fill_codebooks,
    keep_sizes_on_cpu,
    load_codec,
    refresh_codebooks,
    whole_frames,
)
from dtm_hf.codec.publishing import PublishedCodec
from dtm_hf.training.codes.arguments import CodecArguments
from dtm_hf.training.codes.calibration import calibrate
from dtm_hf.training.codes.rows import WaveformMaker
from dtm_hf.training.codes.speaker import CodecSpeaker
from dtm_hf.training.codes.survey import first_recordings
from dtm_hf.training.codes.task import CodesTask
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.codec import CodecObjective, WaveBatch
from dtm_hf.training.objectives.mel_reader import CodecNetwork, MelReader
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.speech.prompts import ValidationRow, validation_rows

# Deviations of channels are known from few seconds.
_CALIBRATION_SECONDS = 20.0


class CodecTask(CodesTask):
    """
    A new codec, whose codebooks are filled from the first recordings, or `init_from`.

    Args:
        config ([`TrainingConfig`]): the run.

    Raises:
        ValueError: if there is not a frame for each entry of a codebook, or `init_from` is of another rate.
        OSError: if there is no such `init_from`.
    """

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        arguments: CodecArguments = config.objective
        if config.model.init_from is not None:
            revision = config.model.init_from_revision
            hub = {} if revision is None else {"revision": revision}
            self.codec = load_codec(config.model.init_from, dtype=torch.float32, **hub)
        else:
            self.codec = MimiModel(codec_config(arguments))
            keep_sizes_on_cpu(self.codec)
            calibrate(self.codec, self._first(_CALIBRATION_SECONDS))
            self._fill()
        # A checkpoint that is loaded changes what the class keeps a copy of.
        self.codec.register_load_state_dict_post_hook(lambda codec, _: refresh_codebooks(codec))
        self.frame_rate = SAMPLING_RATE / self.codec.config.frame_size
        reader = None
        if arguments.codec_keeps_codes:
            self.codec.encoder.requires_grad_(False)
            self.codec.quantizer.requires_grad_(False)
        elif arguments.codec_reading > 0:
            reader = MelReader(self.codec.config)
            reader.measure([whole_frames(self.codec, [one])[0, 0] for one in self._first(_CALIBRATION_SECONDS)])
        self.module = CodecNetwork(self.codec, reader)
        self.objective = CodecObjective(
            arguments.codec_decay,
            arguments.codec_commitment,
            arguments.codec_waveform,
            arguments.codec_unquantized,
            arguments.codec_reading,
            arguments.codec_keeps_codes,
        )
        self.validation_objective = self.objective
        self.maker = WaveformMaker(config.data, SAMPLING_RATE, self.codec.config.frame_size)

    @functools.cached_property
    def _recordings(self) -> list[torch.Tensor]:
        """Read once: a source may be far away, and all that is measured is measured on the first of them."""
        seconds = max(_CALIBRATION_SECONDS, self.config.objective.codec_fill_seconds)
        return first_recordings(self.config, self.codec, seconds)

    def _first(self, seconds: float) -> list[torch.Tensor]:
        """The first recordings that last so many seconds together, or all of them."""
        before = accumulate((len(one) for one in self._recordings), initial=0)
        return [one for one, at in zip(self._recordings, before, strict=False) if at < seconds * SAMPLING_RATE]

    def _fill(self) -> None:
        recordings = self._first(self.config.objective.codec_fill_seconds)
        generator, training = torch.Generator().manual_seed(self.config.optimization.seed), self.codec.training
        fill_codebooks(self.codec.eval(), recordings, generator=generator)
        self.codec.train(training)

    def phases(self, step: int) -> Sequence[Phase]:
        """A new codec's first steps are without codebooks, which then are filled with what latents have become."""
        warmup = 0 if self.config.model.init_from is not None else self.config.objective.codec_warmup_steps
        self.objective.quantizes = step >= warmup
        if step == warmup > 0:
            # Of the weights and the seed alone, so that a run which goes on from here does it again.
            self._fill()
        return super().phases(step)

    def place(self, device: torch.device) -> None:
        self.module.to(device)
        refresh_codebooks(self.codec)

    def batch(self, raw: dict, device: torch.device) -> WaveBatch:
        size = self.codec.config.frame_size
        frames = -(-raw["num_samples"] // size)
        mask = torch.arange(raw["waveform"].shape[1] // size)[None] < frames[:, None]
        return WaveBatch(raw["waveform"].to(device, non_blocking=True), mask.to(device))

    def prepare(self, batch: WaveBatch) -> WaveBatch:
        """Of each recording a random part of `codec_clip_frames`."""
        size, clip = self.codec.config.frame_size, self.config.objective.codec_clip_frames
        clip = min(clip, batch.frame_mask.shape[1])
        lengths = batch.frame_mask.sum(dim=1)
        room = (lengths - clip).clamp(min=0) + 1
        first = (torch.rand(len(lengths), device=lengths.device) * room).long()
        frames = first[:, None] + torch.arange(clip, device=lengths.device)
        waveforms = batch.waveforms.unflatten(1, (-1, size))
        cut = waveforms.gather(1, frames[..., None].expand(-1, -1, size)).flatten(1)
        return WaveBatch(cut, frames < lengths[:, None])

    def size(self, raw: dict, batch: WaveBatch) -> tuple[int, int]:
        """Of the parts that a step sees."""
        size, clip = self.codec.config.frame_size, self.config.objective.codec_clip_frames
        frames = (-(-raw["num_samples"] // size)).clamp(max=clip)
        return int(frames.sum()), len(frames) * min(clip, batch.frame_mask.shape[1])

    def speaker(self) -> CodecSpeaker:
        return CodecSpeaker(self.codec)

    def validation_rows(self) -> Iterator[ValidationRow]:
        return validation_rows(self.config.data)

    def published(self) -> PublishedCodec:
        return PublishedCodec(self.codec)

    def record(self, training_data: str, results: dict | None) -> None:
        self.codec.config.training_data, self.codec.config.results = training_data, results
        self.codec.config.license = self.config.objective.license


def codec_config(arguments: CodecArguments) -> MimiConfig:
    """The configuration of a new codec: Mimi's but for its sizes."""
    heads, hidden = arguments.codec_num_heads, arguments.codec_hidden_size
    return MimiConfig(
        num_filters=arguments.codec_num_filters,
        hidden_size=hidden,
        num_hidden_layers=arguments.codec_num_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=arguments.codec_intermediate_size,
        num_quantizers=arguments.codec_num_quantizers,
        codebook_size=arguments.codec_codebook_size,
        codebook_dim=arguments.codec_codebook_dim,
        vector_quantization_hidden_dimension=arguments.codec_codebook_dim,
        upsample_groups=hidden,
    )
