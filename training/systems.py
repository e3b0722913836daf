"""Which task serves which objective. Another kind of training is a folder of its own and a line of this table."""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dtm_hf.training.codes.arguments import (
    CodecArguments,
    LatentArguments,
    TRMArguments,
    check_codec,
    check_latents,
    check_trm,
)
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.parsing import parse_sections
from dtm_hf.training.images.arguments import ImageArguments, check_images
from dtm_hf.training.mels.arguments import SpeechT5Arguments, check_speecht5
from dtm_hf.training.speech.arguments import (
    AlignmentArguments,
    BackboneArguments,
    DurationsArguments,
    HeadArguments,
    HeadStudentArguments,
    StudentArguments,
    check_alignment,
    check_backbone,
    check_durations,
    check_head,
    check_head_student,
    check_student,
)
from dtm_hf.training.vocoder.arguments import VocoderArguments, check_vocoder

if TYPE_CHECKING:
    from dtm_hf.training.loop.task import Task


@dataclass(frozen=True)
class System:
    """
    Args:
        task (`str`): `module:class` of its [`Task`]. It is imported when a run begins: networks take seconds.
        section (`type`): dataclass of what the objective alone is told, `config.objective` of a run.
        check (`Callable`): raises a `ValueError` for a configuration that cannot be trained.
        shardable (`bool`, defaults to `False`): whether FSDP can train it: what is trained is the one network that
            Accelerate prepares, and large.
    """

    task: str
    section: type
    check: Callable[[TrainingConfig], None]
    shardable: bool = False


SYSTEMS = {
    "dtm": System("dtm_hf.training.speech.head:HeadTask", HeadArguments, check_head),
    "flow_matching": System(
        "dtm_hf.training.speech.backbone:BackboneTask", BackboneArguments, check_backbone, shardable=True
    ),
    "alignment": System("dtm_hf.training.speech.timing:AlignmentTask", AlignmentArguments, check_alignment),
    "durations": System("dtm_hf.training.speech.timing:DurationsTask", DurationsArguments, check_durations),
    "speecht5": System("dtm_hf.training.mels.task:SpeechT5Task", SpeechT5Arguments, check_speecht5),
    "tdm": System("dtm_hf.training.speech.distillation:SpeechDistillation", StudentArguments, check_student),
    "tdm_head": System("dtm_hf.training.speech.matching:HeadDistillation", HeadStudentArguments, check_head_student),
    "codec": System("dtm_hf.training.codes.codec_task:CodecTask", CodecArguments, check_codec),
    "trm": System("dtm_hf.training.codes.task:TRMTask", TRMArguments, check_trm),
    "trm_latents": System("dtm_hf.training.codes.latent_task:LatentTask", LatentArguments, check_latents),
    "vocoder": System("dtm_hf.training.vocoder.task:VocoderTask", VocoderArguments, check_vocoder),
    "tdm_image": System("dtm_hf.training.images.task:ImageDistillation", ImageArguments, check_images),
}


def parse_config(argv: list[str]) -> TrainingConfig:
    """
    Read `--config FILE.yaml` and the `--field value` overrides that follow it.

    Raises:
        ValueError: for an unknown section or key (with the nearest valid name), a wrong type or an impossible value.
    """
    config = parse_sections(argv, {name: system.section for name, system in SYSTEMS.items()})
    SYSTEMS[config.model.objective].check(config)
    return config


def build_task(config: TrainingConfig) -> "Task":
    """The task of an objective, its networks on the CPU."""
    return pkgutil.resolve_name(SYSTEMS[config.model.objective].task)(config)
