"""The precision that a run is in, on the machine that it is on."""

import torch
from accelerate import PartialState

import dtm_hf.precision as precision


def usable_precision(name: str) -> str:
    """A `mixed_precision` as this machine has it: float32 in the place of `bf16` on a CPU that would be slower."""
    state = PartialState()
    if name != "bf16" or state.device.type != "cpu" or precision.multiplies_in(torch.bfloat16):
        return name
    state.print("Note: this processor does not multiply in bfloat16: `mixed_precision` bf16 is computed in float32.")
    return "no"
