"""Text to speech with a frozen F5-TTS backbone, a flow head and a two-level scheduler."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.student import Student, StudentConfig
from dtm_hf.frontend.audio import TARGET_RMS, load_reference
from dtm_hf.frontend.duration_prediction import DurationPredictor, describe_lengths
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.hub import fill_card, push_with_card
from dtm_hf.pipelines.chunking import (
    chunk_text,
    cross_fade,
    finish_reference_text,
    longest_chunk,
    num_bytes,
    share_seconds,
    target_frames,
)
from dtm_hf.pipelines.partial import partial_config
from dtm_hf.provenance import CARD, CARD_TEMPLATE, sampler_values
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler

logger = logging.get_logger(__name__)

# f5_tts/model/cfm.py: `CFM.sample` clamps durations to this many frames.
MAX_FRAMES = 65536
OUTPUT_TYPES = ("np", "pt", "mel")
# F5-TTS's `cfg_strength` of 2.
DEFAULT_GUIDANCE_SCALE = 3.0

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


@dataclass
class DTMPipelineOutput(BaseOutput):
    """
    Output of [`DTMPipeline`].

    Args:
        audios (`list` of `np.ndarray` or `torch.Tensor`):
            One entry a text: float32 samples of shape `(T,)`, or with `output_type="mel"` log-mels of shape `(N, M)`.
        sampling_rate (`int`):
            Samples a second, in Hz.
    """

    audios: list[np.ndarray] | list[torch.Tensor]
    sampling_rate: int


@dataclass
class _Reference:
    """A prompt, ready for the backbone: log-mel `(N, M)`, frames as F5-TTS counts them, text and loudness."""

    mel: torch.Tensor
    num_frames: int
    text: str
    seconds: float
    rms: float


@dataclass
class _Item:
    """One row of the batch: a chunk of one text."""

    text_index: int
    text: str
    reference: _Reference
    num_frames: int


class DTMPipeline(DiffusionPipeline):
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
        duration_predictor ([`DurationPredictor`], *optional*): How long a text takes beside the prompt's, where
            `duration_s` says nothing, and where long text is cut. Without one, F5-TTS's rule: in proportion to bytes.
        force_head (`bool`, defaults to `False`): Mount a head although it was trained on another backbone.

    Raises:
        ValueError: if the head does not fit the backbone, or was trained on another one and `force_head` is not set;
            for a student with a head.
    """

    model_cpu_offload_seq = "backbone->vocoder"
    _optional_components = ["head", "duration_predictor"]
    # Offload hooks would move the two in turn at every head call.
    _exclude_from_cpu_offload = ["head"]
    _callback_tensor_inputs = ["latents"]
    card_template = CARD_TEMPLATE

    def __init__(
        self,
        backbone: F5Backbone,
        tokenizer: F5Tokenizer,
        feature_extractor: F5FeatureExtractor,
        vocoder: torch.nn.Module,
        scheduler: DTMScheduler,
        head: DTMHead | None = None,
        duration_predictor: DurationPredictor | None = None,
        force_head: bool = False,
    ):
        super().__init__()
        if head is not None:
            _check_head(head, backbone, force_head)
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
        )
        self.register_to_config(force_head=force_head)

    # Saving and loading

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "DTMPipeline":
        """
        Load a pipeline as `DiffusionPipeline.from_pretrained` does. A repository with nothing but a head, or nothing
        but the adapters of a student, is accepted too: the other components come from the base model that its
        configuration names, the scheduler from its `sampler`.
        """
        config = partial_config(pretrained_model_name_or_path, **kwargs)
        if config is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        alone = "a student's adapters" if isinstance(config, StudentConfig) else "a head"
        if config.base_model is None:
            load = "`DTMPipeline.load_student`" if isinstance(config, StudentConfig) else "`DTMHead.from_pretrained`"
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} holds {alone} alone and its configuration names no "
                f"`base_model`; load it with {load} and give it to the pipeline of its backbone."
            )
        hub_names = ("cache_dir", "force_download", "local_files_only", "token", "proxies")
        hub_kwargs = {name: kwargs[name] for name in hub_names if name in kwargs}
        revision = kwargs.pop("revision", None) or "main"
        if config.base_model_revision is not None:
            kwargs["revision"] = config.base_model_revision
        if isinstance(config, StudentConfig):
            pipeline = cls.from_pretrained(config.base_model, **kwargs)
            return pipeline.load_student(pretrained_model_name_or_path, revision=revision, **hub_kwargs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        head_kwargs = hub_kwargs | ({"dtype": dtype} if isinstance(dtype, torch.dtype) else {})
        head = DTMHead.from_pretrained(pretrained_model_name_or_path, revision=revision, **head_kwargs)
        if config.sampler is not None:
            kwargs.setdefault("scheduler", DTMScheduler(**config.sampler))
        return cls.from_pretrained(config.base_model, head=head, **kwargs)

    def load_student(self, student: "Student | str | os.PathLike", force: bool = False, **hub) -> "DTMPipeline":
        """
        Put a distilled student in the place of the backbone, and its grid in that of the scheduler; a head goes.

        Args:
            student ([`Student`], `str` or `os.PathLike`): The adapters, or the folder or Hub name that holds them.
            force (`bool`, defaults to `False`): Take a student of another backbone with the same layers.
            hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.

        Returns:
            This pipeline.

        Raises:
            ValueError: if there is no student, or it was distilled from another backbone and `force` is not set.
        """
        if not isinstance(student, Student):
            student = Student.from_pretrained(student, **hub)
        self.register_modules(
            backbone=student.merge_into(self.backbone, force),
            scheduler=DTMScheduler(num_head_steps=0, **student.config.sampler),
            head=None,
        )
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save all components and a filled model card. Only safetensors are written."""
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("`safe_serialization` must be True: dtm-hf writes safetensors alone.")
        for component in (self, self.backbone, self.vocoder):
            # diffusers writes where a component was loaded from; a folder of this machine is nobody else's business.
            if os.path.exists(component.config.get("_name_or_path") or ""):
                component.register_to_config(_name_or_path="")
        super().save_pretrained(save_directory, **kwargs)
        fill_card(self, kwargs.get("repo_id")).save(os.path.join(save_directory, "README.md"))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the pipeline with a filled model card; arguments as in diffusers."""
        return push_with_card(self, repo_id, **kwargs)

    def card_values(self) -> dict[str, Any]:
        """What the model card says: see [`~dtm_hf.hub.Publishable`]."""
        config = self.backbone.config
        values = {} if self.head is None else self.head.card_values()
        return (
            CARD
            | values
            | sampler_values(self.scheduler.config)
            | {
                "license": config.license,
                "backbone_name": config.name,
                "backbone_revision": config.revision,
                "fingerprint": self.backbone.fingerprint,
                "step_counts": config.step_counts,
                "lengths": describe_lengths(self.duration_predictor),
                "training_data": values.get("training_data") or config.training_data,
            }
        )

    # Preparation

    def encode_reference(self, reference_audio: Any, reference_text: str) -> _Reference:
        """Read and check one recording; shapes as in [`F5FeatureExtractor`]."""
        waveform, rms = load_reference(reference_audio, sampling_rate=self.feature_extractor.sampling_rate)
        samples = torch.from_numpy(waveform).to(self._execution_device)
        return _Reference(
            mel=self.feature_extractor.log_mel(samples[None])[0],
            # F5-TTS counts whole hops here, one fewer than the frames of the mel.
            num_frames=len(waveform) // self.feature_extractor.hop_length,
            text=finish_reference_text(reference_text),
            seconds=len(waveform) / self.feature_extractor.sampling_rate,
            rms=rms,
        )

    def prepare_items(
        self, texts: list[str], references: list[_Reference], speed: float, durations: list[float | None]
    ) -> tuple[list[_Item], torch.Tensor]:
        """
        Chunks of all texts with their lengths in frames, and their token ids `(B, N_text)`. `durations` are the wanted
        seconds of each text, `None` where they are to be guessed.
        """
        chunks, measure = [], self.duration_predictor or num_bytes
        for index, (text, reference, duration) in enumerate(zip(texts, references, durations, strict=True)):
            pieces = chunk_text(text, longest_chunk(reference.text, reference.seconds, speed, measure), measure)
            seconds = [None] * len(pieces) if duration is None else share_seconds(duration, pieces, measure)
            chunks += [(index, piece, reference, wanted) for piece, wanted in zip(pieces, seconds, strict=True)]
        text_ids = self.tokenizer([reference.text + piece for _, piece, reference, _ in chunks])
        rate = self.feature_extractor.sampling_rate / self.feature_extractor.hop_length
        items = []
        for (index, piece, reference, wanted), ids in zip(chunks, text_ids, strict=True):
            if wanted is None:
                frames = target_frames(piece, reference.text, reference.num_frames, speed, measure)
            else:
                frames = int(wanted * rate)
            # `CFM.sample`: room for every token, and for one frame after the prompt.
            least = max(int((ids != -1).sum()), len(reference.mel)) + 1
            items.append(_Item(index, piece, reference, min(max(reference.num_frames + frames, least), MAX_FRAMES)))
        return items, text_ids

    def prepare_noise(self, items: list[_Item], generators: list[torch.Generator | None]) -> torch.Tensor:
        """Standard normal `(B, N, M)`; each row drawn at its own length, whatever its neighbours are."""
        bins = self.feature_extractor.feature_size
        rows = [
            randn_tensor((item.num_frames, bins), generators[item.text_index], self._execution_device, torch.float32)
            for item in items
        ]
        return pad_sequence(rows, batch_first=True)

    def check_inputs(
        self,
        text,
        reference_audio,
        reference_text,
        guidance_end,
        speed,
        duration_s,
        generator,
        output_type,
        callback_on_step_end_tensor_inputs,
    ) -> tuple[list[str], list[Any], list[str], list[float | None]]:
        """Refuse what cannot be spoken; returns texts, recordings, their texts and durations as lists of one size."""
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list) or not texts or not all(isinstance(item, str) for item in texts):
            raise TypeError(f"`text` must be a string or a non-empty list of strings, but got {text!r}.")
        for item in texts:
            if not item.strip():
                raise ValueError(f"`text` must not be empty, but got {item!r}.")
            unknown = set(self.tokenizer.unknown_characters(item))
            if all(token in unknown or token.isspace() for token in self.tokenizer.tokenize(item)):
                raise ValueError(f"`text` must hold characters of the vocabulary, but got {item!r}.")
        references = reference_audio if isinstance(reference_audio, list) else [reference_audio] * len(texts)
        reference_texts = reference_text if isinstance(reference_text, list) else [reference_text] * len(texts)
        if len(references) != len(texts) or len(reference_texts) != len(texts):
            raise ValueError(
                f"`reference_audio` and `reference_text` must be single or have one entry for each of {len(texts)} "
                f"texts, but got {len(references)} and {len(reference_texts)}."
            )
        for item in reference_texts:
            if not isinstance(item, str) or not item.strip():
                raise ValueError(
                    f"`reference_text` must be what is said in `reference_audio`, but got {item!r}. Transcribe the "
                    "recording first, for example with the automatic-speech-recognition pipeline of transformers."
                )
        if not 0 <= guidance_end <= 1:
            raise ValueError(f"`guidance_end` must lie in [0, 1], but got {guidance_end!r}.")
        if not (isinstance(speed, int | float) and math.isfinite(speed) and speed > 0):
            raise ValueError(f"`speed` must be a positive number, but got {speed!r}.")
        durations = duration_s if isinstance(duration_s, list) else [duration_s] * len(texts)
        if len(durations) != len(texts) or any(d is not None and not (math.isfinite(d) and d > 0) for d in durations):
            raise ValueError(
                f"`duration_s` must be a positive number of seconds, or a list of one for each of {len(texts)} "
                f"texts, but got {duration_s!r}."
            )
        if isinstance(generator, list) and len(generator) != len(texts):
            raise ValueError(
                f"`generator` must have one entry for each of {len(texts)} texts, but got {len(generator)}."
            )
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, but got {output_type!r}.")
        foreign = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if foreign:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be in {self._callback_tensor_inputs}, but got {foreign}."
            )
        return texts, references, reference_texts, durations

    def _check_student(self, num_inference_steps: int | None, guidance_scale: float | None) -> None:
        """Refuse what a student was not distilled for."""
        served = self.backbone.config.step_counts
        if served is None:
            return
        steps = self.scheduler.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if steps not in served:
            raise ValueError(f"`num_inference_steps` must be one of {served} for this student, but got {steps}.")
        if guidance_scale is not None and guidance_scale > 1:
            raise ValueError(
                f"`guidance_scale` must be left out for a student, which has learnt its teacher's, but got "
                f"{guidance_scale}."
            )

    # Sampling

    def _guidance(self, guidance_scale: float | None, with_head: bool) -> tuple[float | None, float]:
        """The scale that the head follows by itself, and F5-TTS's w for the loop, of which one is None or 0."""
        config = self.head.config if with_head else None
        if self.backbone.config.step_counts is not None:
            return None, 0.0
        if config is None or config.guidance_scale is None:
            return None, max((DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale) - 1.0, 0.0)
        if guidance_scale is None or guidance_scale == config.guidance_scale:
            return config.guidance_scale, 0.0
        if config.guidance_scale_range is None:
            logger.warning(
                f"`guidance_scale` {guidance_scale} is ignored: this head has {config.guidance_scale} baked in."
            )
            return config.guidance_scale, 0.0
        low, high = config.guidance_scale_range
        if not low <= guidance_scale <= high:
            raise ValueError(
                f"`guidance_scale` must lie in [{low}, {high}], which is baked into this head, but got "
                f"{guidance_scale}."
            )
        return guidance_scale, 0.0

    def _sample_displacement(
        self,
        features: torch.Tensor,
        velocity: torch.Tensor,
        timestep: torch.Tensor,
        modulations: torch.Tensor,
        guidance: float,
        attention_mask: torch.Tensor | None,
        y: torch.Tensor,
    ) -> torch.Tensor:
        """The inner flow: Y_0 ~ N(0, I) to Y. With guidance, features and velocity hold both branches."""
        states = self.head.prepare(features)
        if guidance and attention_mask is not None:
            attention_mask = torch.cat([attention_mask, attention_mask])
        for s, modulation in zip(self.scheduler.head_timesteps, modulations, strict=True):
            g = self.head(
                None,
                torch.cat([y, y]) if guidance else y,
                s,
                timestep=timestep,
                velocity=velocity,
                attention_mask=attention_mask,
                prepared_states=states,
                modulation=modulation,
            ).velocity
            if guidance:
                g = _guide(g, guidance)
            y = self.scheduler.head_step(g, s, y).prev_sample
        return y

    @torch.no_grad()
    def __call__(
        self,
        text: str | list[str],
        reference_audio: Any,
        reference_text: str | list[str],
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
        speed: float = 1.0,
        duration_s: float | list[float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[["DTMPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - the signature of diffusers
    ) -> DTMPipelineOutput | tuple:
        r"""
        Speak.

        Args:
            text (`str` or `list[str]`):
                What to say. Long text is cut as F5-TTS cuts it; all chunks run as one batch.
            reference_audio:
                A recording of the voice, or a list with one a text: a path, an array with its rate, or an Audio row of
                `datasets`. Clipped to 12 s.
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
                a step, the less guidance has to say. Spares those steps the second branch.
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
                `"np"`, `"pt"` or `"mel"` (log-mels, no vocoder).
            return_dict (`bool`, defaults to `True`):
                Return a [`DTMPipelineOutput`] instead of a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": X_t})` after each global step; may return
                replaced latents.
            callback_on_step_end_tensor_inputs (`list[str]`):
                What the callback gets.

        Examples:
        """
        # 1. Refuse what cannot be spoken
        texts, recordings, reference_texts, durations = self.check_inputs(
            text,
            reference_audio,
            reference_text,
            guidance_end,
            speed,
            duration_s,
            generator,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        device = self._execution_device
        if self.head is None:
            num_head_steps = 0
        self._check_student(num_inference_steps, guidance_scale)
        self.scheduler.set_timesteps(num_inference_steps, num_head_steps, device=device)
        with_head = self.scheduler.num_head_steps > 0
        baked_scale, strength = self._guidance(guidance_scale, with_head)
        # Asked once: reading a time from the device at each step would make each wait for it.
        guidances = [strength if t < guidance_end else 0.0 for t in self.scheduler.timesteps.tolist()]

        # What a student of several numbers of steps has to know; any other backbone takes no notice.
        num_steps = len(self.scheduler.timesteps)

        # 2. Prompts, chunks and their durations. A recording shared by all texts is read once.
        encoded: dict[tuple[int, str], _Reference] = {}
        for recording, said in zip(recordings, reference_texts, strict=True):
            if (id(recording), said) not in encoded:
                encoded[id(recording), said] = self.encode_reference(recording, said)
        references = [encoded[id(r), said] for r, said in zip(recordings, reference_texts, strict=True)]
        items, text_ids = self.prepare_items(texts, references, speed, durations)
        lengths = torch.tensor([item.num_frames for item in items], device=device)
        num_frames = max(item.num_frames for item in items)
        attention_mask = None
        if min(item.num_frames for item in items) < num_frames:
            attention_mask = torch.arange(num_frames, device=device)[None] < lengths[:, None]
        cond = pad_sequence([item.reference.mel for item in items], batch_first=True)
        cond = torch.nn.functional.pad(cond, (0, 0, 0, num_frames - cond.shape[1]))
        text_embeds = self.backbone.encode_text(text_ids.to(device), attention_mask, num_frames, any(guidances))

        # 3. Noise
        generators = generator if isinstance(generator, list) else [generator] * len(texts)
        if latents is None:
            latents = self.prepare_noise(items, generators)
        elif latents.shape != cond.shape:
            raise ValueError(f"`latents` must have shape {tuple(cond.shape)}, but got {tuple(latents.shape)}.")
        latents = latents.to(device, torch.float32)

        # 4. The global flow, each step with an inner flow of its own
        modulations = None
        if with_head:
            modulations = self.head.prepare_schedule(
                self.scheduler.timesteps, self.scheduler.head_timesteps, baked_scale
            )
        with self.progress_bar(total=len(self.scheduler.timesteps)) as progress_bar:
            for i, (t, guidance) in enumerate(zip(self.scheduler.timesteps, guidances, strict=True)):
                output = self.backbone(
                    latents,
                    t,
                    cond,
                    None,
                    attention_mask,
                    "both" if guidance else "cond",
                    text_embeds=text_embeds,
                    num_steps=num_steps,
                )
                velocity = output.velocity.float()
                if with_head:
                    y_0 = self.prepare_noise(items, generators)
                    y = self._sample_displacement(
                        output.features, velocity, t, modulations[i], guidance, attention_mask, y_0
                    )
                else:
                    y = _guide(velocity, guidance) if guidance else velocity
                latents = self.scheduler.step(y, t, latents).prev_sample
                if callback_on_step_end is not None:
                    latents = callback_on_step_end(self, i, t, {"latents": latents}).pop("latents", latents)
                progress_bar.update()

        # 5. Paste the prompts back, cut them off, and make them heard
        mels = [
            torch.cat(
                [item.reference.mel[item.reference.num_frames :], row[len(item.reference.mel) : item.num_frames]]
            )
            for item, row in zip(items, latents, strict=True)
        ]
        audios = self._join_mels(items, mels) if output_type == "mel" else self._vocode(items, mels, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (audios, self.vocoder.sampling_rate)
        return DTMPipelineOutput(audios=audios, sampling_rate=self.vocoder.sampling_rate)

    def _join_mels(self, items: list[_Item], mels: list[torch.Tensor]) -> list[torch.Tensor]:
        texts = sorted({item.text_index for item in items})
        return [
            torch.cat([mel for item, mel in zip(items, mels, strict=True) if item.text_index == index])
            for index in texts
        ]

    def _vocode(self, items: list[_Item], mels: list[torch.Tensor], output_type: str) -> list:
        """Waveforms of all chunks in one call of the vocoder, as loud as their recordings, joined text by text."""
        lengths = [len(mel) for mel in mels]
        batch = pad_sequence(mels, batch_first=True)
        waves = self.vocoder(batch, lengths=torch.tensor(lengths)).float().cpu().numpy()
        chunks: dict[int, list[np.ndarray]] = {}
        for item, wave, length in zip(items, waves, lengths, strict=True):
            wave = wave[: (length - 1) * self.vocoder.hop_length]
            gain = min(item.reference.rms / TARGET_RMS, 1.0)
            chunks.setdefault(item.text_index, []).append(wave * np.float32(gain))
        audios = [cross_fade(waves, self.vocoder.sampling_rate) for _, waves in sorted(chunks.items())]
        return [torch.from_numpy(audio) for audio in audios] if output_type == "pt" else audios


def _guide(both: torch.Tensor, guidance: float) -> torch.Tensor:
    """F5-TTS's rule: v_c + w (v_c - v_u) from the stacked branches `(2B, ...)`."""
    conditional, null = both.chunk(2)
    return conditional + guidance * (conditional - null)


def _check_head(head: DTMHead, backbone: F5Backbone, force: bool) -> None:
    config = head.config
    if (config.backbone_hidden_size, config.num_mel_bins) != (backbone.config.dim, backbone.config.mel_dim):
        raise ValueError(
            f"`head` reads features of size {config.backbone_hidden_size} and writes {config.num_mel_bins} mel bins, "
            f"but `backbone` {backbone.config.name!r} has {backbone.config.dim} and {backbone.config.mel_dim}."
        )
    if not force and (other := config.other_backbone(backbone)):
        raise ValueError(
            f"`head` was trained on {other} Use the backbone it was trained on, or pass `force_head=True`."
        )


DTMPipeline.__call__.__doc__ += EXAMPLE_DOC_STRING
# Where `DiffusionPipeline.from_pretrained` looks for the class that a saved pipeline names.
diffusers.DTMPipeline = DTMPipeline

__all__ = ["DTMPipeline", "DTMPipelineOutput"]
