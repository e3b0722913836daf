"""Text to speech by the codes of a neural codec, which a small recursive network refines in a few cycles."""

from collections.abc import Callable
from typing import Any, Self

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import encode_recordings, keep_sizes_on_cpu, refresh_codebooks
from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.spoken_text import spoken_text
from dtm_hf.frontend.text_normalizer import TextNormalizer
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.pipelines.arguments import check_callback, check_count, check_generators
from dtm_hf.pipelines.batching import noise_sources, split_batches
from dtm_hf.pipelines.call_state import CallStateMixin, LastCall
from dtm_hf.pipelines.code_batches import join_codes, sound_of_codes
from dtm_hf.pipelines.code_rows import CodeInputs, CodePrompt, CodeRow, Limits, check_code_inputs, divide_codes
from dtm_hf.pipelines.code_sampling import choose_sampling, sample_rows
from dtm_hf.pipelines.code_stream import CodeStreamMixin
from dtm_hf.pipelines.output import CODE_OUTPUT_TYPES, TRMPipelineOutput, check_code_output_type
from dtm_hf.pipelines.reference import read_prompt
from dtm_hf.pipelines.rows import unspoken_characters
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.pipelines.trm_repository import TRMRepositoryMixin, check_trm_parts
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.trm.modeling_trm import TRMModel

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import soundfile as sf
        >>> import torch
        >>> from dtm_hf import TRMPipeline

        >>> pipe = TRMPipeline.from_pretrained("org/trm")
        >>> output = pipe(
        ...     "The train leaves at half past nine.",
        ...     voice="slt",
        ...     num_inference_steps=6,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> sf.write("speech.wav", output.audios[0], output.sampling_rate)
        ```
"""


class TRMPipeline(TRMRepositoryMixin, CallStateMixin, CodeStreamMixin, DiffusionPipeline):
    r"""
    Speaks text in one of the voices that it knows, or goes on from a recording.

    Args:
        model ([`TRMModel`]): Recursive network from characters to codes.
        codec (`MimiModel` of transformers): Codes to speech, and recordings to codes.
        tokenizer ([`F5Tokenizer`]): Text to token ids; the network's are these + 1.
        scheduler ([`MaskingScheduler`]): Which codes are decided after each cycle.
        duration_predictor ([`DurationPredictor`], *optional*): How long a text takes, where `duration_s` says nothing.
            Without one, by its characters; behind a recording at the pace of that, in proportion to either.
        text_normalizer ([`TextNormalizer`], *optional*): Says numbers and the like in words.
        head ([`DTMHead`], *optional*): Draws latents of the codec, where the model has a `latent_dim`: the continuous
            mode, with the same flow head as of [`DTMPipeline`] and the same inner flow.

    A call is `prepare`, `sample`, `decode`, and the three can be called one by one. Threads may share a pipeline.

    Raises:
        ValueError: if the parts do not fit.
    """

    model_cpu_offload_seq = "model->head->codec"
    _optional_components = ["duration_predictor", "text_normalizer", "head"]
    # Offload hooks fire on `forward`, and nobody calls that of these: cycles and codes have methods of their own.
    _exclude_from_cpu_offload = ["model", "head", "codec"]
    _callback_tensor_inputs = ["codes"]

    def __init__(
        self,
        model: TRMModel,
        codec: MimiModel,
        tokenizer: F5Tokenizer,
        scheduler: MaskingScheduler,
        duration_predictor: DurationPredictor | None = None,
        text_normalizer: TextNormalizer | None = None,
        head: DTMHead | None = None,
    ):
        super().__init__()
        check_trm_parts(model, codec, tokenizer, head)
        keep_sizes_on_cpu(codec)
        self.register_modules(
            model=model,
            codec=codec,
            tokenizer=tokenizer,
            scheduler=scheduler,
            duration_predictor=duration_predictor,
            text_normalizer=text_normalizer,
            head=head,
        )
        self._last_call = LastCall()

    def to(self, *args, **kwargs) -> Self:
        """As in diffusers."""
        moved = super().to(*args, **kwargs)
        refresh_codebooks(moved.codec)
        return moved

    @property
    def speakers(self) -> list[str]:
        """Names of the voices."""
        return list(self.model.config.speakers)

    @property
    def sampling_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.codec.config.sampling_rate

    # The three parts of a call

    @torch.no_grad()
    def encode_reference(self, reference_audio: Any, reference_text: str) -> CodePrompt:
        """Read and check one recording and its text, and code it."""
        said, _ = spoken_text(reference_text, self.tokenizer)
        measure = self.duration_predictor or len
        waveform, rms, text = read_prompt(reference_audio, said, self.sampling_rate, measure)
        codes = encode_recordings(self.codec, [torch.from_numpy(waveform)], self.model.config.num_codebooks)[0]
        return CodePrompt(codes, text, rms)

    def prepare(
        self,
        text: str | list[str],
        voice: str | int | list[str | int] | None = None,
        reference_audio: Any = None,
        reference_text: str | list[str] | None = None,
        speed: float = 1.0,
        duration_s: float | list[float | None] | None = None,
    ) -> list[CodeRow]:
        """
        What there is to be said, cut into rows of a batch; the network does not run. Arguments as of a call.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken.
        """
        inputs = self.check(text, voice, reference_audio, reference_text, speed, duration_s)
        prompts = self.encode_prompts(inputs)
        return divide_codes(inputs, prompts, self.tokenizer, self.duration_predictor, speed, self.limits)

    def check(self, text, voice, reference_audio, reference_text, speed, duration_s) -> CodeInputs:
        """What is asked for, refused if it cannot be spoken; arguments as of a call."""
        given = (text, voice, reference_audio, reference_text, speed, duration_s)
        return check_code_inputs(self.tokenizer, self.speakers, *given, self.text_normalizer)

    def encode_prompts(self, inputs: CodeInputs) -> list[CodePrompt | None]:
        """The recordings to go on from, one a text; what is shared by all texts is read once."""
        encoded: dict[tuple[int, str | None], CodePrompt | None] = {}
        pairs = [
            (id(recording), said) for recording, said in zip(inputs.recordings, inputs.reference_texts, strict=True)
        ]
        for pair, recording in zip(pairs, inputs.recordings, strict=True):
            if pair not in encoded:
                encoded[pair] = None if recording is None else self.encode_reference(recording, pair[1])
        return [encoded[pair] for pair in pairs]

    @property
    def limits(self) -> Limits:
        """What a row may have."""
        config, rate = self.model.config, self.sampling_rate / self.codec.config.frame_size
        return Limits(config.max_audio_frames, config.max_text_length, rate)

    @torch.no_grad()
    def sample(
        self,
        rows: list[CodeRow],
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        guidance_end: float = 1.0,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        decoding: str | None = None,
        halt_threshold: float | None = None,
        num_head_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable[["TRMPipeline", int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["codes"],  # noqa: B006 - the signature of diffusers
        max_batch_frames: int | None = None,
    ) -> list[torch.Tensor]:
        """
        Decide the codes of the rows, `(K, F_i)` with those of their prompts, or draw their latents, `(M, F_i)`.
        Arguments as of a call.

        Raises:
            TypeError, ValueError: for what cannot be sampled, before the network runs.
        """
        # Rows may be a part of a call's, and their texts not its last.
        check_generators(generator, torch.Generator, 1 + max(row.text_index for row in rows), exactly=False)
        drawn = (temperature, top_k, top_p, decoding, halt_threshold, num_head_steps)
        sampling = choose_sampling(self, num_inference_steps, guidance_scale, guidance_end, *drawn)
        _check_sampling(
            callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs, max_batch_frames
        )
        device = self._execution_device
        if max_batch_frames is None:
            # A CPU is as busy with one row as with many; what a few rows take is nothing to an accelerator.
            max_batch_frames = 1 if device.type == "cpu" else 16 * self.model.config.max_audio_frames
        batches, sources = split_batches(rows, max_batch_frames), noise_sources(rows, generator)
        state = self._last_call.state = SamplingState(sampling.guidance, len(sampling.scheduler) * len(batches))
        codes = []
        with self.progress_bar(total=state.num_timesteps) as progress_bar:

            def on_cycle_end(i: int, decided: torch.Tensor) -> torch.Tensor:
                if callback_on_step_end is not None:
                    tensors = {name: {"codes": decided}[name] for name in callback_on_step_end_tensor_inputs}
                    decided = callback_on_step_end(self, i, i, tensors).pop("codes", decided)
                progress_bar.update()
                return decided

            for batch in batches:
                of_batch, own = [rows[index] for index in batch], [sources[index] for index in batch]
                codes += sample_rows(self, sampling, of_batch, own, device, state, on_cycle_end)
        return codes

    @torch.no_grad()
    def decode(self, rows: list[CodeRow], codes: list[torch.Tensor], output_type: str = "np") -> list:
        """
        What was decided for these rows, text by text: waveforms, their chunks cross-faded, behind a recording as loud
        as that; or codes without the recordings'.
        """
        check_code_output_type(output_type, self.model.config.latent_dim is not None)
        if output_type in CODE_OUTPUT_TYPES:
            return join_codes(rows, codes)
        audios = sound_of_codes(rows, codes, self.codec)
        return [torch.from_numpy(audio) for audio in audios] if output_type == "pt" else audios

    @torch.no_grad()
    def __call__(
        self,
        text: str | list[str],
        voice: str | int | list[str | int] | None = None,
        reference_audio: Any = None,
        reference_text: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        guidance_end: float = 1.0,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        decoding: str | None = None,
        halt_threshold: float | None = None,
        num_head_steps: int | None = None,
        speed: float = 1.0,
        duration_s: float | list[float | None] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[["TRMPipeline", int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["codes"],  # noqa: B006 - the signature of diffusers
        max_batch_frames: int | None = None,
    ) -> TRMPipelineOutput | tuple:
        r"""
        Speak.

        Args:
            text (`str` or `list[str]`):
                What to say. What is longer than the network serves is cut behind punctuation, or at words.
            voice (`str`, `int` or a list with one a text, *optional*):
                Name or number of a speaker; the first by default.
            reference_audio (*optional*), reference_text (`str` or `list[str]`, *optional*):
                A recording to go on from, as of [`DTMPipeline`], and what is said in it: its codes stand before those
                to be found. Worth something if the network was trained with `prompt_prob`.
            num_inference_steps (`int`, *optional*):
                Cycles H of the network; the scheduler's by default. More of them cost more and may say it better.
            guidance_scale (`float`, defaults to 1.0):
                Above 1 the network runs with and without the text, l_c + (scale - 1) (l_c - l_u) on log-probabilities.
            guidance_end (`float`, defaults to 1.0):
                Share of the cycles, in [0, 1], from which on they go without guidance.
            temperature (`float`, defaults to 0.8), top_k (`int`, defaults to 50), top_p (`float`, *optional*):
                How codes are drawn; a temperature of 0 takes the likeliest, and no draw is made.
            decoding (`str`, *optional*):
                `"masked"`: after each cycle the surest codes are decided, which the next cycle sees. `"independent"`:
                cycles see none, and after the last all are drawn at once. By default what the network was trained
                for.
            halt_threshold (`float`, *optional*):
                Probability in [0, 1] that the codes are right already, by the network's halt head, from which on a
                text is done: what is open then becomes what its cycle drew. `num_inference_steps` is the most then. By
                default all cycles run. Worth something if the network was trained with `halt_weight`.
            num_head_steps (`int`, *optional*):
                Of a model of latents: calls of the head after the last cycle, as of [`DTMPipeline`]; 0 takes the mean.
                There `temperature` is the standard deviation of the noise that the inner flow begins with, and
                `top_k`, `top_p` say nothing.
            speed (`float`, defaults to 1.0):
                Above 1 is faster.
            duration_s (`float` or a list with one a text, *optional*):
                Seconds of the speech, in place of the estimate.
            generator (`torch.Generator` or a list with one a text, *optional*):
                Source of the draws.
            output_type (`str`, defaults to `"np"`):
                `"np"`, `"pt"`, or for codes `(K, F)` without the codec `"codes"`, also called `"latent"`; of a model
                of latents these, `(M, F)`.
            return_dict (`bool`, defaults to `True`):
                Return a [`TRMPipelineOutput`] instead of a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, i, i, {"codes": codes})` after each cycle of each batch, where undecided
                codes are `pipe.model.config.mask_code`; may return others. `pipe._interrupt = True` in it ends the
                cycles: what is open becomes what the last one drew.
            callback_on_step_end_tensor_inputs (`list[str]`):
                What the callback gets.
            max_batch_frames (`int`, *optional*):
                Frames that are decided at once, padding included. A chunk draws the same numbers in any batch.

        Examples:
        """
        check_code_output_type(output_type, self.model.config.latent_dim is not None)
        check_generators(generator, torch.Generator, len(text) if isinstance(text, list) else 1)
        sampling = {
            "guidance_scale": guidance_scale,
            "guidance_end": guidance_end,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "decoding": decoding,
            "halt_threshold": halt_threshold,
            "num_head_steps": num_head_steps,
        }
        # Before a recording is read.
        choose_sampling(self, num_inference_steps, *sampling.values())
        rows = self.prepare(text, voice, reference_audio, reference_text, speed, duration_s)
        codes = self.sample(
            rows,
            num_inference_steps,
            **sampling,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            max_batch_frames=max_batch_frames,
        )
        audios = self.decode(rows, codes, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (audios, self.sampling_rate)
        return TRMPipelineOutput(audios, self.sampling_rate, unspoken=unspoken_characters(rows))


def _check_sampling(callback, tensor_inputs, allowed, max_batch_frames) -> None:
    if max_batch_frames is not None:
        check_count("max_batch_frames", max_batch_frames, 1)
    check_callback(callback, tensor_inputs, allowed)


# Where `DiffusionPipeline.from_pretrained` looks for the class that a saved pipeline names.
TRMPipeline.__call__.__doc__ += EXAMPLE_DOC_STRING
diffusers.TRMPipeline = TRMPipeline

__all__ = ["TRMPipeline", "TRMPipelineOutput"]
