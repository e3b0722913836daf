"""
The encoder of SpeechT5 as a backend of transformers' exporters, `ttnn`: registered where `import ttnn` works, by
importing this module. See [`~dtm_hf.ports.ttnn_speecht5`] for what was tried of it and what was not.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import SpeechT5ForTextToSpeech
from transformers.exporters import ExportMetadata
from transformers.exporters.auto import register_backend
from transformers.exporters.base import HfExporter
from transformers.exporters.configs import ExportConfigMixin
from transformers.exporters.exporter_dynamo import DynamoExporter
from transformers.exporters.runners.base import ModelRunner

from dtm_hf.ports.ttnn_speecht5 import TtSpeechT5EncoderParameters, encode
from dtm_hf.speecht5.networks import EncoderNetwork

FORMAT = "ttnn"


@dataclass
class TTNNConfig(ExportConfigMixin):
    """There is nothing to choose: weights are kept in float32, and the runner rounds them."""

    export_format: str = FORMAT


@dataclass(frozen=True, eq=False)
class TTNNProgram:
    """
    Args:
        state (`dict[str, torch.Tensor]`): of the encoder, under the names of the whole model.
        num_heads (`int`), epsilon (`float`): of its configuration.
    """

    state: dict[str, torch.Tensor]
    num_heads: int
    epsilon: float


class TTNNExporter(HfExporter):
    """Keeps the weights of the encoder of a [`~transformers.SpeechT5ForTextToSpeech`]; there is no graph to trace."""

    export_format = FORMAT
    config_class = TTNNConfig
    program_suffix = ".safetensors"

    def export_program(
        self, model: SpeechT5ForTextToSpeech, sample_inputs: dict[str, torch.Tensor], config: TTNNConfig
    ) -> tuple[TTNNProgram, ExportMetadata]:
        head = "speecht5.encoder."
        state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(head)}
        program = TTNNProgram(state, model.config.encoder_attention_heads, model.config.layer_norm_eps)
        # What goes in and comes out, as its own exporter records it.
        _, metadata = DynamoExporter().export_program(
            EncoderNetwork(model), sample_inputs, DynamoExporter.config_class()
        )
        return program, metadata

    @classmethod
    def save_program(cls, program: TTNNProgram, path: str | Path) -> None:
        about = {"num_heads": program.num_heads, "epsilon": program.epsilon}
        save_file(program.state, path, metadata={"about": json.dumps(about)})

    @classmethod
    def load_program(cls, path: str | Path) -> TTNNProgram:
        with safe_open(path, framework="pt") as file:
            return TTNNProgram(
                {name: file.get_tensor(name) for name in file.keys()}, **json.loads(file.metadata()["about"])
            )


class TTNNRunner(ModelRunner):
    """Runs it in bfloat16 on the first card."""

    def __init__(self, program: TTNNProgram, metadata: ExportMetadata):
        import ttnn

        super().__init__(metadata)
        self.program, self.card = program, ttnn.open_device(device_id=0)
        self.parameters = TtSpeechT5EncoderParameters.from_torch(program.state, self.card, ttnn.bfloat16)

    @property
    def device(self) -> torch.device:
        """Where what goes in and comes out is."""
        return torch.device("cpu")

    @classmethod
    def from_program(cls, program: TTNNProgram, metadata: ExportMetadata, device: Any = None) -> "TTNNRunner":
        return cls(program, metadata)

    def __call__(self, share_inputs: bool = True, share_outputs: bool = False, **kwargs) -> Any:
        import ttnn

        def place(tensor: torch.Tensor) -> Any:
            return ttnn.from_torch(tensor, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=self.card)

        ids = ttnn.from_torch(kwargs["input_ids"].to(torch.int32), dtype=ttnn.uint32, device=self.card)
        states = encode(
            ttnn, self.parameters, ids, kwargs["attention_mask"], place, self.program.num_heads, self.program.epsilon
        )
        return self.unflatten([ttnn.to_torch(states)])


def register() -> bool:
    """Make the backend known to transformers' exporters, if there is `ttnn`; says whether."""
    if find_spec("ttnn") is None:
        return False
    register_backend(TTNNExporter, TTNNRunner)
    return True


register()
