"""What a [`SpeechT5Pipeline`] must be made of, where it is loaded from, and what its card says."""

import os
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Tokenizer

from dtm_hf.frontend.text_normalizer import describe_normalizer
from dtm_hf.pipelines.repository import PublishedMixin
from dtm_hf.pipelines.speecht5_rows import SpeechT5Text
from dtm_hf.reading import read_json
from dtm_hf.speecht5.speakers import SpeakerTable
from dtm_hf.validation import naming
from dtm_hf.vocoder.hifigan import as_vocoder

OFFICIAL_VOCODER = "microsoft/speecht5_hifigan"

_CARD = {
    "model_name": "speecht5",
    "pipeline_tag": "text-to-speech",
    "tags": ["text-to-speech", "dtm-hf", "speecht5"],
}


class SpeechT5RepositoryMixin(PublishedMixin):
    """Loading, saving and pushing of [`SpeechT5Pipeline`]."""

    card_template = Path(__file__).parents[1] / "speecht5_card.md"
    component_classes = {
        "model": ("PortedSpeechT5",),
        "tokenizer": ("F5Tokenizer",),
        "vocoder": ("GriffinLimVocoder", "VocosVocoder", "PortedVocoder", "PortedHifiGan"),
        "speakers": ("SpeakerTable",),
        "text_normalizer": ("TextNormalizer",),
    }
    required_components = ("model", "tokenizer", "vocoder")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Self:
        """
        Load a pipeline as `DiffusionPipeline.from_pretrained` does. A checkpoint of transformers, such as
        `microsoft/speecht5_tts`, is accepted too: `vocoder` is then a component or a name, by default
        `microsoft/speecht5_hifigan`, and `speakers` a component, by default none.
        """
        if not is_checkpoint(pretrained_model_name_or_path, **kwargs):
            return cls._load(pretrained_model_name_or_path, **kwargs)
        return cls._from_checkpoint(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _from_checkpoint(
        cls, name: str | os.PathLike, vocoder: Any = OFFICIAL_VOCODER, speakers: SpeakerTable | None = None, **kwargs
    ) -> Self:
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None)) or torch.float32
        hub = {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only") if key in kwargs}
        of_model = hub | {"revision": kwargs.get("revision") or "main"}
        tokenizer = kwargs.get("tokenizer")
        with naming(name, kwargs.get("cache_dir")):
            if tokenizer is None:
                try:
                    tokenizer = SpeechT5Tokenizer.from_pretrained(name, **of_model)
                except ImportError as error:
                    raise ImportError(
                        'The tokenizer of SpeechT5 needs sentencepiece: pip install "dtm-hf[speecht5]"'
                    ) from error
            # transformers' own reading: safetensors, or what `torch.save` wrote, of which it takes weights alone.
            model = SpeechT5ForTextToSpeech.from_pretrained(name, dtype=dtype, **of_model)
        if isinstance(vocoder, str | os.PathLike):
            with naming(vocoder, kwargs.get("cache_dir")):
                vocoder = SpeechT5HifiGan.from_pretrained(vocoder, dtype=dtype, **hub)
        return cls(model, tokenizer, vocoder, speakers, kwargs.get("text_normalizer"))

    def card_values(self) -> dict[str, Any]:
        """What the model card says: see [`~dtm_hf.hub.Publishable`]."""
        config, names = self.model.config, list(self.speakers.vectors) if self.speakers is not None else []
        manifest = getattr(self.model, "manifest", None)
        parameters = self.model.num_parameters() if manifest is None else manifest.num_parameters
        return _CARD | {
            "license": getattr(config, "license", None) or "unknown",
            "base_model": None,
            "model": config.to_dict(),
            "parameters": f"{parameters:,}",
            "sampling_rate": as_vocoder(self.vocoder).sampling_rate,
            "vocoder": type(self.vocoder).__name__,
            "speakers": ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "by their embedding",
            "normalizer": describe_normalizer(self.text_normalizer),
            "words": sorted(getattr(self.tokenizer, "words", None) or ()),
            "training_data": getattr(config, "training_data", None),
            "results": getattr(config, "results", None),
        }


def is_checkpoint(name: str | os.PathLike, **kwargs) -> bool:
    """Whether a folder or a Hub repository holds a SpeechT5 as transformers saves it, and no pipeline."""
    if os.path.isdir(name):
        if os.path.isfile(os.path.join(name, "model_index.json")):
            return False
        path = os.path.join(name, "config.json")
        return os.path.isfile(path) and read_json(path).get("model_type") == "speecht5"
    names = ("revision", "cache_dir", "token", "local_files_only")
    hub = {key: kwargs[key] for key in names if kwargs.get(key) is not None}
    for file in ("model_index.json", "config.json"):
        try:
            content = read_json(hf_hub_download(str(name), file, **hub))
        except (HfHubHTTPError, ValueError, OSError):
            # A repository that there is not: whoever loads it says it best.
            continue
        return file == "config.json" and content.get("model_type") == "speecht5"
    return False


def check_speecht5_parts(
    model: torch.nn.Module, tokenizer: SpeechT5Text, vocoder: torch.nn.Module, speakers: SpeakerTable | None
) -> None:
    """
    Raises:
        ValueError: for a tokenizer of another size than the model's vocabulary, a vocoder of other mels, speakers of
            another size, and a dropout that would keep everything, by which transformers divides.
    """
    config = model.config
    # The official vocabulary has 81 entries, its sentencepiece two less.
    if tokenizer.vocab_size > config.vocab_size or (
        not tokenizer.is_sentencepiece and tokenizer.vocab_size != config.vocab_size
    ):
        raise ValueError(
            f"`tokenizer` must have the {config.vocab_size} tokens that `model` was trained with, but has "
            f"{tokenizer.vocab_size}."
        )
    voiced = vocoder.config
    bins = getattr(voiced, "model_in_dim", None) or getattr(voiced, "input_channels", config.num_mel_bins)
    if bins != config.num_mel_bins:
        raise ValueError(
            f"`vocoder` must take the {config.num_mel_bins} mel bins that `model` makes, but takes {bins}."
        )
    if speakers is not None and speakers.size != config.speaker_embedding_dim:
        raise ValueError(
            f"`speakers` must be embeddings of the {config.speaker_embedding_dim} numbers that `model` was trained "
            f"with, but have {speakers.size}."
        )
    if not 0 < config.speech_decoder_prenet_dropout < 1:
        raise ValueError(
            "`model` must have a `speech_decoder_prenet_dropout` between 0 and 1, for transformers keeps that share "
            f"and divides by the rest, but has {config.speech_decoder_prenet_dropout}."
        )
