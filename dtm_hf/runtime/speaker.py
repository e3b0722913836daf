"""`Speaker`: a port of a pipeline speaks, with numpy and a runtime of graphs alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from dtm_hf.frontend.audio import TARGET_RMS
from dtm_hf.frontend.spoken_seconds import spoken_seconds
from dtm_hf.frontend.spoken_text import spoken_text
from dtm_hf.frontend.vocabulary import VOCAB_FILE_NAME, WORDS_FILE_NAME, Vocabulary
from dtm_hf.frontend.written_words import WrittenWords
from dtm_hf.pipelines.chunking import cross_fade, num_bytes
from dtm_hf.pipelines.guidance import Guidance, choose_guidance
from dtm_hf.pipelines.proportional_timing import ProportionalTiming
from dtm_hf.pipelines.reference import read_prompt
from dtm_hf.pipelines.rows import Reference, SpeechInputs, SpeechRow, check_inputs, divide, unspoken_characters
from dtm_hf.pipelines.streaming import check_one_text, fade_together, one_by_one
from dtm_hf.reading import naming_damage, read_json
from dtm_hf.runtime.graphs import open_graphs
from dtm_hf.runtime.griffin_lim import GriffinLim
from dtm_hf.runtime.manifest import CONFIG_FILE, Manifest, check_head
from dtm_hf.runtime.networks import Backbone, Head, Vocos
from dtm_hf.runtime.noise import NoiseGenerator
from dtm_hf.runtime.sampling import pad_rows, sample
from dtm_hf.runtime.schedule import Schedule, make_schedule
from dtm_hf.runtime.spectra import log_mel
from dtm_hf.runtime.timing import Aligner, Durations, TokenTiming

_INDEX_FILE = "model_index.json"


@dataclass(frozen=True, eq=False)
class Speech:
    """
    What a [`Speaker`] has said.

    Args:
        audio (`np.ndarray` of shape `(T,)`): float32 samples.
        sampling_rate (`int`): samples a second, in Hz.
        unspoken (`list[str]`): characters of the text that the vocabulary lacks, which were left out.
    """

    audio: np.ndarray
    sampling_rate: int
    unspoken: list[str]


class ArrayTokenizer(Vocabulary):
    """A [`Vocabulary`] that gives ids as numpy arrays."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Ids `(B, L)`, padded with -1 on the right."""
        rows = [self.ids(text) for text in texts]
        padded = np.full((len(rows), max(map(len, rows))), self.padding_value, dtype=np.int64)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return padded


class Speaker:
    """
    Speaks text in the voice of a recording with a port that `dtm-hf export` wrote. Neither torch nor what stands on it
    is imported. The same seed gives the same noise as torch's generator on the CPU, so the same speech as the pipeline
    that the port was made of. Threads may share a speaker.

    Args:
        folder (`str` or `os.PathLike`): of the port.
        threads (`int`, *optional*): that each network may use; by default those of `OMP_NUM_THREADS`, else the cores.
        runtime (`str`, *optional*): `"onnx"` or `"openvino"`, which the port must be of; by default that which it is.

    Raises:
        FileNotFoundError: if there is no port, or a file of it is missing.
        ValueError: if a file is damaged, the parts are not of one pipeline, or there is no numpy in the place of one.
        ImportError: if its runtime is not installed.

    Example:

    ```python
    >>> from dtm_hf.runtime import Speaker

    >>> speaker = Speaker.from_pretrained("org/dtm-f5-onnx")
    >>> speech = speaker("The train leaves at half past nine.", "voice.wav", "What is said in the recording.")
    ```
    """

    def __init__(self, folder: str | os.PathLike, threads: int | None = None, runtime: str | None = None):
        with naming_damage(folder):
            self._open(Path(folder), threads, runtime)

    def _open(self, folder: Path, threads: int | None, runtime: str | None) -> None:
        index = read_json(folder / _INDEX_FILE)
        # First all that is read, then the graphs: what is wrong is said before anything is opened.
        self._classes = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and entry[1]}
        self._check_classes(folder)
        self._mean_mel = index.get("mean_mel")
        words = folder / "tokenizer" / WORDS_FILE_NAME
        self.tokenizer = ArrayTokenizer(
            folder / "tokenizer" / VOCAB_FILE_NAME,
            words.read_text(encoding="utf-8").split() if words.is_file() else None,
        )
        self.normalizer = None
        if "text_normalizer" in self._classes:
            rules = read_json(folder / "text_normalizer" / "normalizer_config.json")
            self.normalizer = WrittenWords(rules["language"])
        self.features = read_json(folder / "feature_extractor" / "preprocessor_config.json")
        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        names = ("backbone", "head", "vocoder", "duration_predictor", "text_aligner")
        manifests = {name: Manifest.load(folder / name) for name in names if self._is_ported(name)}
        configs = {
            name: read_json(folder / name / CONFIG_FILE) for name in names if name in manifests or name == "vocoder"
        }
        self.timing = ProportionalTiming(num_bytes)
        if self._classes.get("duration_predictor") == "DurationPredictor":
            seconds = read_json(folder / "duration_predictor" / "duration_config.json")
            self.timing = ProportionalTiming(lambda text: spoken_seconds(text, seconds))
        aligned = configs["backbone"].get("text_alignment") == "durations"
        if aligned and not {"duration_predictor", "text_aligner"} <= set(manifests):
            raise ValueError(f"{str(folder)!r} has a backbone that is told durations, and no networks that draw them.")
        if "head" in configs:
            check_head(folder, configs["head"], manifests["backbone"], bool(index.get("force_head")))
        graphs = {name: open_graphs(folder / name, port, threads, runtime) for name, port in manifests.items()}
        if aligned:
            timers = [(configs[name], graphs[name]) for name in ("text_aligner", "duration_predictor")]
            self.timing = TokenTiming(self.tokenizer.ids, Aligner(*timers[0]), Durations(*timers[1]))
        self.backbone = Backbone(configs["backbone"], graphs["backbone"])
        self.head = Head(configs["head"], graphs["head"]) if "head" in graphs else None
        if "vocoder" in graphs:
            self.vocoder = Vocos(configs["vocoder"], graphs["vocoder"])
        else:
            self.vocoder = GriffinLim(configs["vocoder"])

    def _is_ported(self, name: str) -> bool:
        return self._classes.get(name, "").startswith("Ported")

    def _check_classes(self, folder: Path) -> None:
        able = {
            "backbone": ("PortedBackbone",),
            "head": ("PortedHead",),
            "vocoder": ("PortedVocoder", "GriffinLimVocoder"),
            "duration_predictor": ("DurationPredictor", "PortedTokenDurations"),
            "text_aligner": ("PortedTextAligner",),
            "text_normalizer": ("TextNormalizer",),
        }
        if not self._is_ported("backbone"):
            raise ValueError(
                f"{str(folder)!r} holds no port, but a pipeline for PyTorch; `dtm-hf export` makes a port of it."
            )
        for name, classes in able.items():
            if name in self._classes and self._classes[name] not in classes:
                raise ValueError(f"{str(folder)!r} has a {self._classes[name]}, which speaks with PyTorch alone.")

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        runtime: str | None = None,
    ) -> "Speaker":
        """
        Open a port in a folder or a Hub repository.

        Args:
            name (`str` or `os.PathLike`): folder or Hub name.
            threads (`int`, *optional*), runtime (`str`, *optional*): as of [`Speaker`].
            revision, cache_dir, token, local_files_only: as in `huggingface_hub.snapshot_download`.
        """
        if not os.path.isdir(name):
            try:
                from huggingface_hub import snapshot_download
            except ImportError as error:
                raise ImportError(
                    f"{str(name)!r} is no folder, and to look on the Hub huggingface_hub is needed: "
                    "`pip install huggingface_hub`."
                ) from error
            name = snapshot_download(
                str(name), revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
            )
        return cls(name, threads, runtime)

    @property
    def _frame_rate(self) -> float:
        """Frames a second."""
        return self.features["sampling_rate"] / self.features["hop_length"]

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.vocoder.sampling_rate

    def encode_reference(self, reference_audio: Any, reference_text: str) -> Reference:
        """Read and check one recording, to speak like it more than once: what this gives may be given in its place."""
        if isinstance(reference_audio, Reference):
            return reference_audio
        said, _ = spoken_text(reference_text, self.tokenizer)
        waveform, rms, text = read_prompt(reference_audio, said, self.features["sampling_rate"], self.timing.measure)
        mel, num_frames = log_mel(waveform, self.features), len(waveform) // self.features["hop_length"]
        return Reference(
            mel=mel,
            num_frames=num_frames,
            text=text,
            durations=self.timing.align(mel[:num_frames], text),
            seconds=len(waveform) / self.features["sampling_rate"],
            rms=rms,
        )

    def prepare(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        duration_s: float | None = None,
        generator: NoiseGenerator | None = None,
    ) -> list[SpeechRow]:
        """
        What there is to be said, cut into rows of a batch. Arguments as of a call; lengths that are drawn come of the
        generator, before the noise.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken.
        """
        inputs = check_inputs(
            self.tokenizer, text, reference_audio, reference_text, speed, duration_s, self.normalizer
        )
        reference = self.encode_reference(reference_audio, inputs.reference_texts[0])
        return self._divide(inputs, reference, speed, generator or NoiseGenerator(0))

    def _divide(self, inputs: SpeechInputs, reference: Reference, speed: float, generator) -> list[SpeechRow]:
        longest = self.backbone.config.get("max_seconds")
        return divide(
            inputs, [reference], self.tokenizer, self.timing, speed, self._frame_rate, generator, max_seconds=longest
        )

    def sample(
        self,
        rows: list[SpeechRow],
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
        generators: Sequence[NoiseGenerator] | None = None,
    ) -> list[np.ndarray]:
        """
        Speak the rows as one batch, as log-mels `(N_i, M)` without their prompts. Arguments as of a call.

        Args:
            generators (`list` of [`NoiseGenerator`], *optional*): one a row, or the same one for several.

        Raises:
            TypeError, ValueError: for what cannot be sampled, before a network runs.
        """
        schedule, guidance = self._plan(num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        generators = generators or [NoiseGenerator(0)] * len(rows)
        num_bins = self.features["feature_size"]

        def draw() -> np.ndarray:
            # Each row at its own length, whatever its neighbours are.
            noises = [source.normal(row.num_frames, num_bins) for row, source in zip(rows, generators, strict=True)]
            return pad_rows(noises, max(row.num_frames for row in rows))

        x_1 = sample(self.backbone, self.head, schedule, rows, guidance, draw)
        return [cut_target(row, mel) for row, mel in zip(rows, x_1, strict=True)]

    def _plan(self, num_inference_steps, num_head_steps, guidance_scale, guidance_end) -> tuple[Schedule, Guidance]:
        schedule = make_schedule(
            self.scheduler_config, num_inference_steps, 0 if self.head is None else num_head_steps
        )
        served = self.backbone.config.get("step_counts")
        if served is not None and len(schedule.timesteps) not in served:
            raise ValueError(
                f"`num_inference_steps` must be one of {served} for this student, but got {len(schedule.timesteps)}."
            )
        head_config = SimpleNamespace(**self.head.config) if len(schedule.flow_times) else None
        guidance = choose_guidance(guidance_scale, guidance_end, head_config, served is not None, self._mean_mel)
        return schedule, guidance

    def vocode(self, row: SpeechRow, mel: np.ndarray) -> np.ndarray:
        """The waveform of one row's log-mel, as loud as its recording."""
        wave = self.vocoder(mel)[: (len(mel) - 1) * self.vocoder.hop_length]
        return wave * np.float32(min(row.reference.rms / TARGET_RMS, 1.0))

    def __call__(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
        speed: float = 1.0,
        duration_s: float | None = None,
        seed: int = 0,
    ) -> Speech:
        """
        Speak.

        Args:
            text (`str`): what to say. Long text is cut as F5-TTS cuts it.
            reference_audio: a recording of the voice: a path, or an array with its rate.
            reference_text (`str`): what is said in it.
            num_inference_steps (`int`, *optional*), num_head_steps (`int`, *optional*), guidance_scale (`float`,
                *optional*), guidance_end (`float`), speed (`float`), duration_s (`float`, *optional*): as of
                [`DTMPipeline`].
            seed (`int`, defaults to 0): of the noise: that of `torch.Generator().manual_seed(seed)`.
        """
        generator = NoiseGenerator(seed)
        rows = self.prepare(text, reference_audio, reference_text, speed, duration_s, generator)
        sampling = (num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        # Row by row: a CPU is as busy with one as with many.
        waves = [
            self.vocode(row, self.sample([row], *sampling, [source])[0])
            for row, source in zip(rows, self.noise_sources(rows, generator), strict=True)
        ]
        return Speech(cross_fade(waves, self.sampling_rate), self.sampling_rate, unspoken_characters(rows)[0])

    def stream(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
        speed: float = 1.0,
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """
        Speak while it is heard: float32 samples `(T_i,)`, sentence by sentence, the first chunk short. Together they
        are the sentences cross-faded. Memory does not grow with the text. Arguments, and what is refused at once, as
        of a call.
        """
        make_schedule(self.scheduler_config, num_inference_steps, 0 if self.head is None else num_head_steps)
        generator = self.noise(seed)
        rows = self.stream_rows(text, reference_audio, reference_text, speed, generator)
        sampling = (num_inference_steps, num_head_steps, guidance_scale, guidance_end)

        def waves() -> Iterator[np.ndarray]:
            for row in rows:
                yield self.vocode(row, self.sample([row], *sampling, self.noise_sources([row], generator))[0])

        return fade_together(waves(), self.sampling_rate)

    # What a batcher asks for beside the above: see `dtm_hf.runtime.contract`.

    def noise(self, seed: int) -> NoiseGenerator:
        """The generator of one text."""
        return NoiseGenerator(seed)

    def stream_rows(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        generator: NoiseGenerator | None = None,
    ) -> Iterator[SpeechRow]:
        """The rows of a stream; arguments, and what is refused at once, as of a call."""
        check_one_text(text)
        inputs = check_inputs(self.tokenizer, text, reference_audio, reference_text, speed, None, self.normalizer)
        reference = self.encode_reference(reference_audio, inputs.reference_texts[0])
        generator = generator or self.noise(0)
        parts = one_by_one(inputs, reference, self.timing, speed, self.backbone.config.get("max_seconds"))
        return (row for part in parts for row in self._divide(part, reference, speed, generator))

    def noise_sources(self, rows: Sequence[SpeechRow], generator: NoiseGenerator) -> list[NoiseGenerator]:
        """What each row of one text draws its noise from: see `dtm_hf.pipelines.batching.noise_sources`."""
        followers = [generator.follower(0, row.chunk_index) if row.chunk_index else None for row in rows]
        return [follower or generator for follower in followers]

    def passes(
        self,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
    ) -> int:
        """Backbone passes of one row, both branches of guidance counted."""
        schedule, guidance = self._plan(num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        return sum(2 if guidance.branch(t) == "both" else 1 for t in schedule.timesteps.tolist())

    def log_mel(self, audio: np.ndarray) -> np.ndarray:
        """The log-mel `(N, M)` of a waveform `(T,)`."""
        return log_mel(audio, self.features)


def cut_target(row: SpeechRow, x_1: np.ndarray) -> np.ndarray:
    """The log-mel of what was to be said, from the sampled one: `dtm_hf.pipelines.speech.cut_targets`."""
    reference = row.reference
    return np.concatenate([reference.mel[reference.num_frames :], x_1[len(reference.mel) : row.num_frames]])
