"""The task of training a SpeechT5 from scratch."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.pipelines.speecht5_rows import END_ID, FIRST_ID, PAD_ID
from dtm_hf.speecht5.speakers import SpeakerTable
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.mels.rows import VoicedMaker, find_speakers, vector_of_name
from dtm_hf.training.mels.speaker import SpeechT5Speaker
from dtm_hf.training.objectives.speecht5 import SpeechT5Batch, SpeechT5Objective
from dtm_hf.training.speech.components import Components, default_vocoder, vocab_file
from dtm_hf.training.speech.prompts import read_prompts, validation_rows
from dtm_hf.training.speech.provenance import data_description
from dtm_hf.training.speech.rows import build_loader
from dtm_hf.training.speech.samples import SpeechSamples
from dtm_hf.training.speech.task import SpeechTask

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_speecht5 import SpeechT5Pipeline

# Positions of the encoder, as the official checkpoint has them.
_MAX_TOKENS = 600


class SpeechT5Task(SpeechTask):
    """A new SpeechT5; the result is a [`SpeechT5Pipeline`] with the speakers of the data."""

    def __init__(self, config: TrainingConfig):
        sizes = config.objective
        if sizes.speaker_table is not None:
            self.speakers = SpeakerTable.from_pretrained(sizes.speaker_table)
        else:
            names = find_speakers(config.data)
            self.speakers = SpeakerTable({name: vector_of_name(name, sizes.speaker_embedding_dim) for name in names})
        super().__init__(config)
        if self.module.config.speaker_embedding_dim != self.speakers.size:
            # As built, for the default: a table has its own size.
            raise ValueError(f"`speaker_embedding_dim` must be {self.speakers.size}, that of `speaker_table`.")

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        tokenizer, extractor = F5Tokenizer(vocab_file(config)), F5FeatureExtractor()
        return Components(
            backbone=None,
            head=None,
            tokenizer=tokenizer,
            feature_extractor=extractor,
            vocoder=default_vocoder(),
            scheduler=None,
            trained=new_network(network_config(config, tokenizer, extractor)),
            objective=SpeechT5Objective(),
        )

    def place(self, device: torch.device) -> None:
        self.module.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.module.gradient_checkpointing_enable()

    def precision(self) -> AbstractContextManager:
        return nullcontext()

    # Data

    def loader(self, split: str, *, endless: bool, **share):
        data, parts = self.config.data, self.components
        maker = VoicedMaker(data, parts.tokenizer, parts.feature_extractor, self.speakers.vectors, _MAX_TOKENS - 1)
        return build_loader(
            data, split, parts.tokenizer, parts.feature_extractor, endless=endless, maker=maker, **share
        )

    def batch(self, raw: dict, device: torch.device) -> SpeechT5Batch:
        extractor, factor = self.components.feature_extractor, self.module.config.reduction_factor
        mel = extractor.log_mel(raw["waveform"].to(device, non_blocking=True), raw["num_samples"])
        num_frames = self._num_frames(raw)
        longest = int(num_frames.max())
        surplus = -longest % math.lcm(factor, self.config.data.frame_multiple)
        mel = nn.functional.pad(mel[:, :longest], (0, 0, 0, surplus))
        mask = torch.arange(mel.shape[1])[None] < num_frames[:, None]
        rows = [torch.cat([ids[ids >= 0] + FIRST_ID, ids.new_tensor([END_ID])]) for ids in raw["text_ids"]]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=PAD_ID)
        speakers = torch.stack([self.speakers.vectors[name] for name in raw["speakers"]])
        text_mask = (input_ids != PAD_ID).long()
        return SpeechT5Batch(mel, *(tensor.to(device) for tensor in (mask, input_ids, text_mask, speakers)))

    def size(self, raw: dict, batch: SpeechT5Batch) -> tuple[int, int]:
        return int(self._num_frames(raw).sum()), batch.attention_mask.numel()

    def _num_frames(self, raw: dict) -> torch.Tensor:
        """Frames of each row: a last step that would be of padding in part is cut off."""
        factor = self.module.config.reduction_factor
        return self.components.feature_extractor.num_frames(raw["num_samples"]) // factor * factor

    # Results

    def open_samples(self, folder: Path) -> bool:
        logging = self.config.logging
        prompts = read_prompts(logging.sample_prompts, logging.sample_prompts_file)
        if prompts:
            speaker = SpeechT5Speaker(self.published(), self.components.feature_extractor)
            self._samples = SpeechSamples(speaker, prompts, validation_rows(self.config.data), folder)
        return bool(prompts)

    def save(self, folder: Path, step: int, units: int) -> None:
        self._record(step, units)
        self.published().save_pretrained(str(folder))

    def published(self) -> "SpeechT5Pipeline":
        """The pipeline around the current weights."""
        from dtm_hf.pipelines.pipeline_speecht5 import SpeechT5Pipeline

        return SpeechT5Pipeline(self.module, self.components.tokenizer, self.components.vocoder, self.speakers)

    def record(self, training_data: str, results: dict | None) -> None:
        self.module.config.update({"training_data": training_data, "results": results})

    def write_samples(self, step: int, trackers: Sequence) -> None:
        self._samples.write(step, trackers)


def new_network(config: SpeechT5Config) -> SpeechT5ForTextToSpeech:
    """
    A network with random weights, its characters as large as the places that are added to them: as transformers begins
    them they are a fiftieth, and what is said is lost in where it stands for the first thousands of steps.
    """
    network = SpeechT5ForTextToSpeech(config)
    characters = network.speecht5.encoder.prenet.embed_tokens
    with torch.no_grad():
        characters.weight.normal_()
        characters.weight[characters.padding_idx] = 0
    return network


def network_config(config: TrainingConfig, tokenizer: F5Tokenizer, extractor: F5FeatureExtractor) -> SpeechT5Config:
    """What is built for a run."""
    sizes = config.objective
    size = sizes.speaker_embedding_dim
    if sizes.speaker_table is not None:
        size = SpeakerTable.from_pretrained(sizes.speaker_table).size
    longest = math.ceil(config.data.max_seconds * extractor.sampling_rate / extractor.hop_length)
    return SpeechT5Config(
        vocab_size=tokenizer.vocab_size + FIRST_ID,
        hidden_size=sizes.speecht5_hidden_size,
        # transformers' 0.02 is for a width of 768 and more.
        initializer_range=sizes.speecht5_hidden_size**-0.5,
        encoder_layers=sizes.speecht5_layers,
        encoder_attention_heads=sizes.speecht5_heads,
        encoder_ffn_dim=sizes.speecht5_ffn_dim,
        decoder_layers=sizes.speecht5_layers,
        decoder_attention_heads=sizes.speecht5_heads,
        decoder_ffn_dim=sizes.speecht5_ffn_dim,
        # A layer that a step leaves out has no attention to be guided, and several processes would wait for its
        # gradient.
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        hidden_dropout=sizes.speecht5_dropout,
        attention_dropout=sizes.speecht5_dropout,
        activation_dropout=sizes.speecht5_dropout,
        positional_dropout=sizes.speecht5_dropout,
        num_mel_bins=extractor.feature_size,
        speech_decoder_prenet_units=sizes.speecht5_prenet_units,
        speech_decoder_postnet_units=sizes.speecht5_postnet_units,
        speech_decoder_postnet_dropout=sizes.speecht5_dropout,
        speaker_embedding_dim=size,
        reduction_factor=sizes.reduction_factor,
        max_speech_positions=longest // sizes.reduction_factor + 1,
        max_text_positions=_MAX_TOKENS,
        use_guided_attention_loss=sizes.guided_attention_scale > 0,
        guided_attention_loss_scale=sizes.guided_attention_scale,
        guided_attention_loss_sigma=sizes.guided_attention_sigma,
        license=sizes.license,
        training_data=data_description(config),
    )
