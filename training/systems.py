"""Which task serves which objective. Another kind of training is a folder of its own and a line of this table."""

import pkgutil
from dataclasses import dataclass

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.loop.task import Task


@dataclass(frozen=True)
class System:
    """
    Args:
        task (`str`): `module:class` of its [`Task`]. It is imported when a run begins: networks take seconds.
        shardable (`bool`, defaults to `False`): whether FSDP can train it: what is trained is the one network that
            Accelerate prepares, and large.
    """

    task: str
    shardable: bool = False


SYSTEMS = {
    "dtm": System("dtm_hf.training.speech.head:HeadTask"),
    "flow_matching": System("dtm_hf.training.speech.backbone:BackboneTask", shardable=True),
    "tdm": System("dtm_hf.training.speech.distillation:SpeechDistillation"),
    "tdm_image": System("dtm_hf.training.images.task:ImageDistillation"),
}


def build_task(config: TrainingConfig) -> Task:
    """The task of an objective, its networks on the CPU."""
    return pkgutil.resolve_name(SYSTEMS[config.model.objective].task)(config)
