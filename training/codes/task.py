"""What the tasks on codes share, and the task of training TRM."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtm_hf.codec.mimi import load_codec, refresh_codebooks
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.hub import Publishable, save_with_card
from dtm_hf.pipelines.pipeline_trm import TRMPipeline
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.training.codes.arguments import TRMArguments
from dtm_hf.training.codes.rows import CodeMaker, build_code_loader
from dtm_hf.training.codes.speaker import TRMSpeaker
from dtm_hf.training.codes.survey import check_codec, coded_validation_rows, find_speakers, fit_code_durations
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.data.loader import BatchLoader
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.objectives.trm import CodeBatch, TRMObjective
from dtm_hf.training.speech.components import vocab_file
from dtm_hf.training.speech.prompts import ValidationRow, read_prompts
from dtm_hf.training.speech.provenance import training_record
from dtm_hf.training.speech.samples import SpeechSamples
from dtm_hf.training.speech.speaker import Speaker
from dtm_hf.trm.configuration_trm import TRMConfig
from dtm_hf.trm.modeling_trm import TRMModel


class CodesTask(Task):
    """
    One phase and one group. Losses call parts of the module, so that the loop itself averages gradients.

    A subclass sets `module`, `objective`, `validation_objective`, `maker`, `frame_rate`, and says what it publishes.
    """

    unit = "frames"
    groups_are_called = False
    maker: Maker
    objective: Any
    validation_objective: Any
    frame_rate: float

    def __init__(self, config: TrainingConfig):
        self.config = config
        self._samples: SpeechSamples | None = None

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return {self.config.model.objective: trainable}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase(self.config.model.objective, self.objective.loss)]

    # Data

    def loader(self, split: str, *, seed: int, rank: int, world_size: int, endless: bool) -> BatchLoader:
        share = {"seed": seed, "rank": rank, "world_size": world_size, "endless": endless}
        return build_code_loader(self.config.data, split, self.maker, **share)

    def amount(self, units: int) -> dict[str, float]:
        """Hours of speech, repeats counted."""
        return {"hours": units / self.frame_rate / 3600}

    # Results

    def validate(self, batch: Any, generator: torch.Generator) -> Mapping[str, torch.Tensor | float]:
        loss, figures = self.validation_objective.loss(self.module, batch, generator)
        return {"loss": loss} | figures | self.validation_objective.probe(self.module, batch, generator)

    def open_samples(self, folder: Path) -> bool:
        logging = self.config.logging
        prompts = read_prompts(logging.sample_prompts, logging.sample_prompts_file, self.default_speaker)
        if prompts:
            self._samples = SpeechSamples(self.speaker(), prompts, self.validation_rows(), folder)
        return bool(prompts)

    def write_samples(self, step: int, trackers: Sequence) -> None:
        self._samples.write(step, trackers)

    def save(self, folder: Path, step: int, units: int) -> None:
        self._record(step, units)
        self.published().save_pretrained(str(folder))

    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        table = self._record(step, units, results)
        save_with_card(self.published(), folder, repo_id, results=table)

    def _record(self, step: int, units: int, results: dict[str, float] | None = None) -> dict | None:
        training_data, table = training_record(self.config, step, self.amount(units)["hours"], results)
        self.record(training_data, table)
        return table

    default_speaker: str | None = None

    @abstractmethod
    def speaker(self) -> Speaker:
        """Who speaks the samples."""

    @abstractmethod
    def validation_rows(self) -> Iterator[ValidationRow]:
        """Where the recordings of the samples are found."""

    @abstractmethod
    def published(self) -> Publishable:
        """What is saved, and pushed to the Hub."""

    @abstractmethod
    def record(self, training_data: str, results: dict | None) -> None:
        """Write into the configuration of what is trained what its model card is to say."""


class TRMTask(CodesTask):
    """
    A new network on the codes of a frozen codec, or `init_from`, a pipeline.

    Args:
        config ([`TrainingConfig`]): the run.

    Raises:
        ValueError: for a codec that the codes are not of, and for an `init_from` of other sizes or voices.
        OSError: if there is no such codec.
    """

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        arguments: TRMArguments = config.objective
        revision = {} if arguments.codec_revision is None else {"revision": arguments.codec_revision}
        self.codec = load_codec(arguments.codec, dtype=torch.float32, **revision).requires_grad_(False)
        check_codec(config, self.codec)
        self.tokenizer = F5Tokenizer(vocab_file(config))
        self.frame_rate = self.codec.config.sampling_rate / self.codec.config.frame_size
        self.module = self.network = self._network(arguments)
        sizes = self.network.config
        if sizes.num_codebooks > self.codec.config.num_quantizers:
            raise ValueError(
                f"`num_codebooks` must be at most the {self.codec.config.num_quantizers} of `codec`, but got "
                f"{sizes.num_codebooks}."
            )
        self.scheduler = self._scheduler(arguments)
        self.duration_predictor = fit_code_durations(config, self.frame_rate)
        self._set_objectives()
        self.maker = CodeMaker(
            self.tokenizer,
            sizes.speakers,
            arguments.codes_column,
            sizes.num_codebooks,
            sizes.codebook_size,
            sizes.max_text_length,
            sizes.max_audio_frames,
        )
        self.default_speaker = _speaker_name(arguments.sample_speaker, sizes.speakers)

    def _set_objectives(self) -> None:
        arguments: TRMArguments = self.config.objective
        names = ("feedback", "silent_share", "num_supervisions", "halt_weight", "halt_accuracy")
        shown = {name: getattr(arguments, name) for name in names} | {"num_cycles": arguments.trm_h_cycles}
        self.objective = TRMObjective(
            **shown, text_drop_prob=arguments.text_drop_prob, prompt_prob=arguments.prompt_prob
        )
        self.validation_objective = TRMObjective(**shown, text_drop_prob=0.0, any_number=False)

    def _scheduler(self, arguments: TRMArguments) -> MaskingScheduler:
        return MaskingScheduler(arguments.trm_h_cycles, silent_share=arguments.silent_share)

    def _sizes(self) -> dict[str, Any]:
        """Of the network, what another kind of it has otherwise."""
        arguments: TRMArguments = self.config.objective
        return {"feedback": arguments.feedback, "share_output_heads": arguments.share_output_heads}

    def _network(self, arguments: TRMArguments) -> TRMModel:
        model = self.config.model
        if model.init_from is not None:
            network = TRMModel.from_pretrained(
                model.init_from, revision=model.init_from_revision or "main", subfolder="model", dtype=torch.float32
            )
            for name, value, wanted in (
                ("vocab_file", network.config.vocab_size, self.tokenizer.vocab_size + 1),
                ("codec", network.config.codebook_size, self.codec.config.codebook_size),
            ):
                if value != wanted:
                    raise ValueError(
                        f"`{name}` must be that of `init_from` {model.init_from!r}: {value} is not {wanted}."
                    )
            network.config.feedback = self._sizes()["feedback"]
            return network
        return TRMModel(
            TRMConfig(
                vocab_size=self.tokenizer.vocab_size + 1,
                speakers=arguments.speakers or find_speakers(self.config),
                num_codebooks=arguments.num_codebooks,
                codebook_size=self.codec.config.codebook_size,
                text_dim=arguments.trm_text_dim,
                text_layers=arguments.trm_text_layers,
                audio_dim=arguments.trm_audio_dim,
                ffn_dim=arguments.trm_ffn_dim,
                num_heads=arguments.trm_num_heads,
                num_layers=arguments.trm_num_layers,
                h_cycles=arguments.trm_h_cycles,
                l_cycles=arguments.trm_l_cycles,
                update=arguments.trm_update,
                align_text=arguments.trm_align_text,
                speaker_embed_dim=arguments.speaker_embed_dim,
                codebook_embed_dim=arguments.codebook_embed_dim,
                dropout=arguments.trm_dropout,
                max_text_length=arguments.max_text_length,
                max_audio_frames=arguments.max_audio_frames,
                license=arguments.license,
                **self._sizes(),
            )
        )

    def place(self, device: torch.device) -> None:
        self.module.to(device)
        self.codec.to(device)
        refresh_codebooks(self.codec)
        if self.config.optimization.gradient_checkpointing:
            self.network.gradient_checkpointing_enable()

    def batch(self, raw: dict, device: torch.device) -> CodeBatch:
        mask = torch.arange(raw["codes"].shape[2])[None] < raw["num_frames"][:, None]
        parts = (raw["text_ids"], raw["speaker_ids"], raw["codes"], mask)
        return CodeBatch(*(part.to(device, non_blocking=True) for part in parts))

    def size(self, raw: dict, batch: CodeBatch) -> tuple[int, int]:
        return int(raw["num_frames"].sum()), batch.audio_mask.numel()

    def speaker(self) -> TRMSpeaker:
        return TRMSpeaker(self.published(), self._sampling())

    def _sampling(self) -> dict[str, Any]:
        """How samples are drawn."""
        arguments: TRMArguments = self.config.objective
        names = ("temperature", "top_k", "top_p")
        return {name: getattr(arguments, f"sample_{name}") for name in names}

    def validation_rows(self) -> Iterator[ValidationRow]:
        return coded_validation_rows(self.config, self.codec)

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.network,
            "codec": self.codec,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
            "duration_predictor": self.duration_predictor,
        }

    def published(self) -> TRMPipeline:
        return TRMPipeline(**self._parts())

    def record(self, training_data: str, results: dict | None) -> None:
        self.network.config.training_data, self.network.config.results = training_data, results


def _speaker_name(speaker: str | None, speakers: Sequence[str]) -> str | None:
    """The name that `sample_speaker` means, which may be a number."""
    from dtm_hf.pipelines.code_rows import find_voice

    if speaker is None:
        return None
    try:
        return speakers[find_voice(speakers, speaker)]
    except ValueError as error:
        raise ValueError(str(error).replace("`voice`", "`sample_speaker`")) from error
