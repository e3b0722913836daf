"""Text to speech with SpeechT5: frame after frame, until the model says that all is said."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from dtm_hf.frontend.text_normalizer import TextNormalizer
from dtm_hf.pipelines.arguments import check_count, check_generators, check_number
from dtm_hf.pipelines.batching import noise_sources
from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.output import MEL_OUTPUT_TYPES, SpeechT5PipelineOutput, check_output_type
from dtm_hf.pipelines.rows import check_texts, unspoken_characters, warn_of_text
from dtm_hf.pipelines.speecht5_repository import SpeechT5RepositoryMixin, check_speecht5_parts
from dtm_hf.pipelines.speecht5_rows import SpeechT5Row, SpeechT5Text, divide_speecht5, find_speakers, pad_ids
from dtm_hf.speecht5.generation import EagerSteps, Steps, drawn_masks, generate
from dtm_hf.speecht5.speakers import SpeakerTable
from dtm_hf.vocoder.hifigan import as_vocoder

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import soundfile as sf
        >>> import torch
        >>> from dtm_hf import SpeechT5Pipeline

        >>> # transformers' own checkpoints, or a pipeline of this package
        >>> pipe = SpeechT5Pipeline.from_pretrained("microsoft/speecht5_tts")
        >>> output = pipe(
        ...     "The train leaves at half past nine.",
        ...     speaker="xvector.npy",
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> sf.write("speech.wav", output.audios[0], output.sampling_rate)
        ```
"""


class SpeechT5Pipeline(SpeechT5RepositoryMixin, DiffusionPipeline):
    r"""
    Speaks text in the voice of a speaker embedding.

    Args:
        model ([`~transformers.SpeechT5ForTextToSpeech`]): Characters to log-mels; or its port.
        tokenizer ([`F5Tokenizer`] or [`~transformers.SpeechT5Tokenizer`]): Text to token ids.
        vocoder ([`~transformers.SpeechT5HifiGan`], [`VocosVocoder`] or [`GriffinLimVocoder`]): Log-mel to waveform; or
            a port.
        speakers ([`SpeakerTable`], *optional*): Voices by name.
        text_normalizer ([`TextNormalizer`], *optional*): Says numbers and the like in words.

    A call is `prepare`, `sample`, `decode`, and the three can be called one by one. Threads may share a pipeline.

    Raises:
        ValueError: if the parts do not fit.
    """

    model_cpu_offload_seq = "model->vocoder"
    _optional_components = ["speakers", "text_normalizer"]
    # Offload hooks fire on `forward`, and the loop calls the parts of the model.
    _exclude_from_cpu_offload = ["model"]

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        vocoder: torch.nn.Module,
        speakers: SpeakerTable | None = None,
        text_normalizer: TextNormalizer | None = None,
    ):
        super().__init__()
        check_speecht5_parts(model, SpeechT5Text(tokenizer), vocoder, speakers)
        self.register_modules(
            model=model, tokenizer=tokenizer, vocoder=vocoder, speakers=speakers, text_normalizer=text_normalizer
        )

    @property
    def sampling_rate(self) -> int:
        """Of the speech, in Hz."""
        return as_vocoder(self.vocoder).sampling_rate

    @property
    def steps(self) -> Steps:
        """The networks as the loop drives them: those of the model, or its port."""
        return self.model if hasattr(self.model, "step") else EagerSteps(self.model)

    def prepare(self, text: str | list[str], speaker: Any = None, reference_audio: Any = None) -> list[SpeechT5Row]:
        """
        What there is to be said, cut into rows of a batch; the model does not run. Arguments as of a call.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken.
        """
        tokenizer, config = SpeechT5Text(self.tokenizer), self.model.config
        texts = check_texts(text, tokenizer, self.text_normalizer)
        warn_of_text("text", texts, tokenizer)
        speakers = find_speakers(self.speakers, speaker, reference_audio, config.speaker_embedding_dim, len(texts))
        return divide_speecht5(texts, speakers, tokenizer, config.max_text_positions)

    @torch.no_grad()
    def sample(
        self,
        rows: list[SpeechT5Row],
        threshold: float = 0.5,
        min_ratio: float = 0.0,
        max_ratio: float = 20.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 8,
        callback_on_step_end: Callable[[int], None] | None = None,
        callback_on_row_end: Callable[[SpeechT5Row, bool], None] | None = None,
    ) -> list[torch.Tensor]:
        """
        Speak the rows, as log-mels `(N_i, M)`. Arguments as of a call; `callback_on_row_end` is called with each row
        that ends, and whether the model ended it itself.

        Raises:
            TypeError, ValueError: for what cannot be sampled, before the model runs.
        """
        check_generators(generator, torch.Generator, 1 + max(row.text_index for row in rows), exactly=False)
        check_number("threshold", threshold, (0.0, float(self.model.config.reduction_factor)))
        check_number("max_ratio", max_ratio, (0.1, 1000.0))
        check_number("min_ratio", min_ratio, (0.0, max_ratio))
        check_count("batch_size", batch_size, 1)
        steps = self.steps
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        sources = noise_sources(rows, generator)
        mels = []
        for start in range(0, len(rows), batch_size):
            of_batch = rows[start : start + batch_size]
            ids, mask = (tensor.to(steps.device) for tensor in pad_ids(of_batch))
            mels += generate(
                steps,
                ids,
                mask,
                torch.stack([row.speaker for row in of_batch]),
                drawn_masks(sources[start : start + batch_size], steps.config, steps.device, steps.dtype),
                threshold,
                min_ratio,
                max_ratio,
                on_step=callback_on_step_end,
                on_end=_of_rows(of_batch, callback_on_row_end),
            )
        return mels

    @torch.no_grad()
    def decode(self, rows: list[SpeechT5Row], mels: list[torch.Tensor], output_type: str = "np") -> list:
        """What was sampled from these rows, text by text: waveforms, their chunks cross-faded, or log-mels."""
        check_output_type(output_type)
        of_texts: dict[int, list[torch.Tensor]] = {}
        for row, mel in zip(rows, mels, strict=True):
            of_texts.setdefault(row.text_index, []).append(mel)
        if output_type in MEL_OUTPUT_TYPES:
            return [torch.cat(parts) for parts in of_texts.values()]
        waves = ([self.vocode(part) for part in parts] for parts in of_texts.values())
        audios = [cross_fade(of_text, self.sampling_rate) for of_text in waves]
        return [torch.from_numpy(audio) for audio in audios] if output_type == "pt" else audios

    @torch.no_grad()
    def vocode(self, mel: torch.Tensor) -> np.ndarray:
        """Waveform `(T,)` of a log-mel `(N, M)`."""
        if len(mel) < 4:
            # What is too short for a vocoder is no speech.
            mel = torch.cat([mel, mel[-1:].expand(4, -1)])
        return as_vocoder(self.vocoder)(mel[None].float())[0].float().cpu().numpy()

    @torch.no_grad()
    def __call__(
        self,
        text: str | list[str],
        speaker: str | torch.Tensor | np.ndarray | list | None = None,
        reference_audio: Any = None,
        threshold: float = 0.5,
        min_ratio: float = 0.0,
        max_ratio: float = 20.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
        batch_size: int = 8,
        callback_on_step_end: Callable[[int], None] | None = None,
        return_dict: bool = True,
    ) -> SpeechT5PipelineOutput | tuple:
        """
        Speak.

        Args:
            text (`str` or `list[str]`): What to say. Text that is longer than the model reads at once is cut behind
                its punctuation.
            speaker (*optional*): One of the pipeline's voices by name, the path of an `.npy` file, or an embedding
                `(E,)`; or a list with one a text. The pipeline's first voice by default.
            reference_audio (*optional*): In its place a recording to speak like, as a path or an array with its rate,
                if the pipeline knows what made its embeddings.
            threshold (`float`, defaults to 0.5): Sum of the stop probabilities of a step that ends the speech.
            min_ratio (`float`, defaults to 0.0), max_ratio (`float`, defaults to 20.0):
                Frames a token, at least and at most.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Of the dropout in the pre-net, which never ends; one for all texts or one a text.
            output_type (`str`, defaults to `"np"`): `"np"`, `"pt"`, or `"mel"` for log-mels.
            batch_size (`int`, defaults to 8): Chunks that are spoken at once.
            callback_on_step_end (`Callable`, *optional*): Called with the number of steps of a batch so far.
            return_dict (`bool`, defaults to `True`): A [`SpeechT5PipelineOutput`], else a tuple of its audios.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken, before the model runs.
        """
        check_output_type(output_type)
        rows = self.prepare(text, speaker, reference_audio)
        check_generators(generator, torch.Generator, 1 + rows[-1].text_index)
        stopped = [True] * (1 + rows[-1].text_index)

        def end(row: SpeechT5Row, said: bool) -> None:
            stopped[row.text_index] &= said

        mels = self.sample(rows, threshold, min_ratio, max_ratio, generator, batch_size, callback_on_step_end, end)
        audios = self.decode(rows, mels, output_type)
        if not return_dict:
            return (audios,)
        return SpeechT5PipelineOutput(audios, self.sampling_rate, unspoken_characters(rows), stopped)


def _of_rows(rows: list[SpeechT5Row], callback: Callable[[SpeechT5Row, bool], None] | None):
    """What hears of the rows of a batch by their number."""
    return None if callback is None else lambda index, said: callback(rows[index], said)


SpeechT5Pipeline.__call__.__doc__ += EXAMPLE_DOC_STRING
# As with `DTMPipeline`: so that `DiffusionPipeline.from_pretrained` finds it.
diffusers.SpeechT5Pipeline = SpeechT5Pipeline

__all__ = ["SpeechT5Pipeline"]
