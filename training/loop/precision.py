"""The precision that a run is in, on the machine that it is on."""

import torch
from accelerate.utils import parse_flag_from_env

import dtm_hf.precision as precision

FLOAT32_INSTEAD = "Note: this processor does not multiply in bfloat16: `mixed_precision` bf16 is computed in float32."


def usable_precision(name: str) -> str:
    """
    A `mixed_precision` as this machine has it: float32 in the place of `bf16` on a CPU that would be slower.

    It is asked before there is an `Accelerator`, whose state must not be taken up by anyone else: that decides how
    many processes there are.
    """
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return "no" if name == "bf16" and on_cpu and not precision.multiplies_in(torch.bfloat16) else name
