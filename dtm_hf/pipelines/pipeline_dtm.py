"""Text to speech with a frozen F5-TTS backbone, a flow head and a two-level scheduler."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.spoken_text import spoken_text
from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.text_normalizer import TextNormalizer
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.mean_mel import MeanMel
from dtm_hf.pipelines import sampler, speech
from dtm_hf.pipelines.arguments import check_callback, check_count, check_generators
from dtm_hf.pipelines.batching import default_batch_frames, noise_sources, split_batches
from dtm_hf.pipelines.call_state import CallStateMixin, LastCall
from dtm_hf.pipelines.checks import check_head, check_parts
from dtm_hf.pipelines.guidance import Guidance, choose_guidance
from dtm_hf.pipelines.loading import RepositoryMixin
from dtm_hf.pipelines.output import MEL_OUTPUT_TYPES, DTMPipelineOutput, check_output_type
from dtm_hf.pipelines.proportional_timing import Timing
from dtm_hf.pipelines.reference import read_prompt
from dtm_hf.pipelines.rows import MAX_FRAMES, Reference, SpeechRow, check_inputs, divide, unspoken_characters
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.pipelines.stream_call import StreamMixin
from dtm_hf.pipelines.timing import choose_timing
from dtm_hf.reading import show
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import soundfile as sf
        >>> import torch
        >>> from dtm_hf import DTMPipeline

        >>> pipe = DTMPipeline.from_pretrained("org/dtm-f5").to("cuda")
        >>> output = pipe(
        ...     "The train leaves at half past nine.",
        ...     reference_audio="voice.wav",
        ...     reference_text="What is said in the recording.",
        ...     num_inference_steps=4,
        ...     generator=torch.Generator("cuda").manual_seed(0),
        ... )
        >>> sf.write("speech.wav", output.audios[0], output.sampling_rate)
        ```
"""


class DTMPipeline(RepositoryMixin, CallStateMixin, StreamMixin, DiffusionPipeline):
    r"""
    Speaks text in the voice of a recording.

    Args:
        backbone ([`F5Backbone`]): Frozen F5-TTS diffusion transformer.
        tokenizer ([`F5Tokenizer`]): Text to token ids.
        feature_extractor ([`F5FeatureExtractor`]): Recording to log-mel.
        vocoder ([`VocosVocoder`] or [`GriffinLimVocoder`]): Log-mel to waveform.
        scheduler ([`DTMScheduler`]): Two-level scheduler.
        head ([`DTMHead`], *optional*): Flow head. Without one the pipeline is the F5-TTS baseline, or with a student
            in the place of the backbone, that student in its 1-4 steps.
        duration_predictor ([`DurationPredictor`] or [`TokenDurations`], *optional*): How long a text takes beside the
            prompt's, where `duration_s` says nothing, and where long text is cut. Without one, F5-TTS's rule: in
            proportion to bytes. A backbone that is told how long each token lasts needs one of tokens.
        text_aligner ([`TextAligner`], *optional*): When the tokens of a recording are said, for such a backbone.
        text_normalizer ([`TextNormalizer`], *optional*): Says numbers and the like in words. Without one, text goes to
            the tokenizer as it is written, as in F5-TTS.
        force_head (`bool`, defaults to `False`): Mount a head although it was trained on another backbone.

    A call is `prepare`, `sample`, `decode`, and the three can be called one by one: the rows that `prepare` gives may
    be sampled a few at a time, or together with those of other calls. Threads may share a pipeline: a call keeps its
    state to itself.

    Raises:
        ValueError: if the head does not fit the backbone, or was trained on another one and `force_head` is not set;
            for a student with a head; for a tokenizer of another size than the backbone's vocabulary.
    """

    model_cpu_offload_seq = "backbone->vocoder"
    _optional_components = ["head", "duration_predictor", "text_aligner", "text_normalizer"]
    # Offload hooks would move the two in turn at every head call.
    _exclude_from_cpu_offload = ["head"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: F5Tokenizer,
        feature_extractor: F5FeatureExtractor,
        vocoder: torch.nn.Module,
        scheduler: DTMScheduler,
        head: torch.nn.Module | None = None,
        duration_predictor: DurationPredictor | TokenDurations | None = None,
        text_aligner: TextAligner | None = None,
        text_normalizer: TextNormalizer | None = None,
        force_head: bool = False,
        mean_mel: list[float] | dict[str, list[float]] | None = None,
    ):
        super().__init__()
        check_parts(backbone, tokenizer, feature_extractor, vocoder)
        if mean_mel is not None:
            MeanMel.of(mean_mel, backbone.config.mel_dim)
        choose_timing(tokenizer, backbone.config.text_alignment, duration_predictor, text_aligner)
        if head is not None:
            check_head(head, backbone, force_head)
            if backbone.config.step_counts is not None:
                raise ValueError(
                    f"`head` must be none with a student, but `backbone` {backbone.config.name!r} serves "
                    f"{backbone.config.step_counts} steps by itself."
                )
        self.register_modules(
            backbone=backbone,
            tokenizer=tokenizer,
            feature_extractor=feature_extractor,
            vocoder=vocoder,
            scheduler=scheduler,
            head=head,
            duration_predictor=duration_predictor,
            text_aligner=text_aligner,
            text_normalizer=text_normalizer,
        )
        self.register_to_config(force_head=force_head, mean_mel=mean_mel)
        self._last_call = LastCall()

    # The three parts of a call

    @torch.no_grad()
    def encode_reference(self, reference_audio: Any, reference_text: str) -> Reference:
        """Read and check one recording and its text; shapes as in [`F5FeatureExtractor`]."""
        if isinstance(reference_audio, Reference):
            return reference_audio
        extractor, timing = self.feature_extractor, self._timing
        said, _ = spoken_text(reference_text, self.tokenizer)
        waveform, rms, text = read_prompt(reference_audio, said, extractor.sampling_rate, timing.measure)
        mel = extractor.log_mel(torch.from_numpy(waveform).to(self._execution_device)[None])[0]
        num_frames = len(waveform) // extractor.hop_length
        return Reference(
            mel=mel,
            num_frames=num_frames,
            text=text,
            durations=timing.align(mel[:num_frames], text),
            seconds=len(waveform) / extractor.sampling_rate,
            rms=rms,
        )

    def prepare(
        self,
        text: str | list[str],
        reference_audio: Any,
        reference_text: str | list[str],
        speed: float = 1.0,
        duration_s: float | list[float | None] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> list[SpeechRow]:
        """
        What there is to be said, cut into rows of a batch; the backbone does not run. Arguments as of a call.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken.
        """
        inputs = check_inputs(
            self.tokenizer, text, reference_audio, reference_text, speed, duration_s, self.text_normalizer
        )
        pairs = list(zip(inputs.recordings, inputs.reference_texts, strict=True))
        # A recording shared by all texts is read once.
        encoded: dict[tuple[int, str], Reference] = {}
        for recording, said in pairs:
            if (id(recording), said) not in encoded:
                encoded[id(recording), said] = self.encode_reference(recording, said)
        return divide(
            inputs,
            [encoded[id(recording), said] for recording, said in pairs],
            self.tokenizer,
            self._timing,
            speed,
            self.feature_extractor.sampling_rate / self.feature_extractor.hop_length,
            generator,
            getattr(self.backbone.config, "max_seconds", None),
            getattr(self.backbone, "max_frames", MAX_FRAMES),
        )

    @property
    def _timing(self) -> Timing:
        return choose_timing(
            self.tokenizer, self.backbone.config.text_alignment, self.duration_predictor, self.text_aligner
        )

    def prepare_latents(
        self,
        rows: list[SpeechRow],
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise `(B, N, M)` for the rows, drawn or as given; a row's does not depend on its neighbours."""
        device = self._execution_device
        if latents is None:
            return speech.draw_noise(rows, noise_sources(rows, generator), self.feature_extractor.feature_size, device)
        num_frames = max(row.num_frames for row in rows)
        shape = (len(rows), num_frames, self.feature_extractor.feature_size)
        if latents.shape != shape:
            raise ValueError(f"`latents` must have shape {shape}, but got {tuple(latents.shape)}.")
        return latents.to(device, torch.float32)

    @torch.no_grad()
    def sample(
        self,
        rows: list[SpeechRow],
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | Guidance | None = None,
        guidance_end: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        callback_on_step_end: Callable[["DTMPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - the signature of diffusers
        max_batch_frames: int | None = None,
    ) -> list[torch.Tensor]:
        """
        Speak the rows, as log-mels `(N_i, M)` without their prompts. Arguments as of a call.

        Raises:
            TypeError, ValueError: for what cannot be sampled, before a network runs.
        """
        # Rows may be a part of a call's, and their texts not its last.
        check_generators(generator, torch.Generator, 1 + max(row.text_index for row in rows), exactly=False)
        self._check_sampling(latents, callback_on_step_end, callback_on_step_end_tensor_inputs, max_batch_frames)
        device, num_mel_bins = self._execution_device, self.feature_extractor.feature_size
        scheduler, guidance = self.choose(num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        if latents is not None:
            latents = self.prepare_latents(rows, latents=latents)
        batches = split_batches(rows, max_batch_frames or default_batch_frames(self.backbone, device))
        sources = noise_sources(rows, generator)
        state = self._last_call.state = SamplingState(guidance, len(scheduler.timesteps) * len(batches))
        mels = []
        with self.progress_bar(total=state.num_timesteps) as progress_bar:

            def on_step_end(i: int, t: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
                if callback_on_step_end is not None:
                    tensors = {name: {"latents": x_t}[name] for name in callback_on_step_end_tensor_inputs}
                    x_t = callback_on_step_end(self, i, t, tensors).pop("latents", x_t)
                progress_bar.update()
                return x_t

            for batch in batches:
                of_batch = [rows[index] for index in batch]
                longest = max(row.num_frames for row in of_batch)
                draw = partial(speech.draw_noise, of_batch, [sources[i] for i in batch], num_mel_bins, device)
                x_1 = sampler.sample(
                    self.backbone,
                    self.head,
                    copy.copy(scheduler),
                    speech.collate(of_batch, device),
                    state,
                    draw=draw,
                    latents=None if latents is None else latents[batch.start : batch.stop, :longest],
                    on_step_end=on_step_end,
                )
                mels += speech.cut_targets(of_batch, x_1)
        return mels

    @torch.no_grad()
    def decode(self, rows: list[SpeechRow], mels: list[torch.Tensor], output_type: str = "np") -> list:
        """
        What was sampled from these rows, text by text: waveforms as loud as the recordings, their chunks cross-faded,
        or log-mels.
        """
        check_output_type(output_type)
        if output_type in MEL_OUTPUT_TYPES:
            return speech.join_mels(rows, mels)
        audios = speech.vocode(rows, mels, self.vocoder)
        return [torch.from_numpy(audio) for audio in audios] if output_type == "pt" else audios

    def choose(
        self, num_inference_steps=None, num_head_steps=None, guidance_scale=None, guidance_end=1.0
    ) -> tuple[DTMScheduler, Guidance]:
        """The scheduler of a call, with its timesteps, and its guidance; refuses what [`~DTMPipeline.sample`] does."""
        served, steps = self.backbone.config.step_counts, num_inference_steps
        steps = self.scheduler.config.num_inference_steps if steps is None else steps
        if served is not None and steps not in served:
            raise ValueError(f"`num_inference_steps` must be one of {served} for this student, but got {steps}.")
        # The walk's state belongs to the call. `set_timesteps` replaces all of it, so that a shallow copy will do.
        scheduler = copy.copy(self.scheduler)
        head_steps = 0 if self.head is None else num_head_steps
        scheduler.set_timesteps(num_inference_steps, head_steps, device=self._execution_device)
        head = self.head.config if scheduler.num_head_steps > 0 else None
        return scheduler, choose_guidance(guidance_scale, guidance_end, head, bool(served), self.config.mean_mel)

    def _check_sampling(self, latents, callback, tensor_inputs, max_batch_frames) -> None:
        if max_batch_frames is not None:
            check_count("max_batch_frames", max_batch_frames, 1)
        check_callback(callback, tensor_inputs, self._callback_tensor_inputs)
        if latents is not None and not isinstance(latents, torch.Tensor):
            raise TypeError(f"`latents` must be a tensor or None, but got {show(latents)}.")

    @torch.no_grad()
    def __call__(
        self,
        text: str | list[str],
        reference_audio: Any,
        reference_text: str | list[str],
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | Guidance | None = None,
        guidance_end: float = 1.0,
        speed: float = 1.0,
        duration_s: float | list[float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[["DTMPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - the signature of diffusers
        max_batch_frames: int | None = None,
    ) -> DTMPipelineOutput | tuple:
        r"""
        Speak.

        Args:
            text (`str` or `list[str]`):
                What to say. Long text is cut as F5-TTS cuts it, and a clause that is too long at words.
            reference_audio:
                A recording of the voice, or a list with one a text: a path, an array with its rate, or an Audio row of
                `datasets`; or what `encode_reference` made of one. Clipped to 12 s.
            reference_text (`str` or `list[str]`):
                What is said in the recording.
            num_inference_steps (`int`, *optional*):
                Global steps, one backbone pass each; the scheduler's by default. A student serves certain numbers.
            num_head_steps (`int`, *optional*):
                Head calls a global step; 0 is the F5-TTS baseline.
            guidance_scale (`float`, *optional*):
                Strength of classifier-free guidance: F5-TTS's `cfg_strength` + 1. Up to 1.0 only the conditional
                branch runs. By default 3.0, as in F5-TTS, or what is baked into the head. A head with guidance baked
                in runs the conditional branch alone, at the strength it was trained with, or at any in its range; a
                student the conditional branch alone, whose guidance is its teacher's.
            guidance_end (`float`, defaults to 1.0):
                Time t in [0, 1] from which on steps go without guidance: the words are placed near t=0, and the later
                a step, the less guidance has to say. Spares those steps the second branch, or the head whose
                `prediction` is guidance. What another head has baked in goes to the end.
            speed (`float`, defaults to 1.0):
                Above 1 is faster than the recording.
            duration_s (`float` or a list with one a text, *optional*):
                Seconds of the generated speech, in place of the estimate from the recording's pace: by the
                `duration_predictor`, or by F5-TTS's count of bytes, which is the rougher the shorter the texts are.
            generator (`torch.Generator` or a list with one a text, *optional*):
                Source of the noise.
            latents (`torch.Tensor` of shape `(B, N, M)`, *optional*):
                The noise X_0 of all chunks, prompts included.
            output_type (`str`, defaults to `"np"`):
                `"np"`, `"pt"`, or for log-mels without the vocoder `"mel"`, which is also what `"latent"` means here.
            return_dict (`bool`, defaults to `True`):
                Return a [`DTMPipelineOutput`] instead of a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": X_t})` after each global step of each batch;
                may return replaced latents. `pipe._interrupt = True` in it leaves out the rest of the steps.
            callback_on_step_end_tensor_inputs (`list[str]`):
                What the callback gets.
            max_batch_frames (`int`, *optional*):
                Frames that are sampled at once, prompts and padding included: chunks run in batches of at most so
                many. By default what an accelerator's memory holds, and on a CPU each chunk by itself. A chunk's noise
                is the same in any batch. With 1 each chunk runs alone, and is what it is to the bit whatever else is
                said; in a batch it differs from that by rounding.

        Examples:
        """
        check_output_type(output_type)
        check_generators(generator, torch.Generator, len(text) if isinstance(text, list) else 1)
        self._check_sampling(latents, callback_on_step_end, callback_on_step_end_tensor_inputs, max_batch_frames)
        self.choose(num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        rows = self.prepare(text, reference_audio, reference_text, speed, duration_s, generator)
        mels = self.sample(
            rows,
            num_inference_steps=num_inference_steps,
            num_head_steps=num_head_steps,
            guidance_scale=guidance_scale,
            guidance_end=guidance_end,
            generator=generator,
            latents=latents,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            max_batch_frames=max_batch_frames,
        )
        audios = self.decode(rows, mels, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (audios, self.vocoder.sampling_rate)
        return DTMPipelineOutput(audios, self.vocoder.sampling_rate, unspoken=unspoken_characters(rows))


DTMPipeline.__call__.__doc__ += EXAMPLE_DOC_STRING
# Where `DiffusionPipeline.from_pretrained` looks for the class that a saved pipeline names.
diffusers.DTMPipeline = DTMPipeline

__all__ = ["DTMPipeline", "DTMPipelineOutput"]
