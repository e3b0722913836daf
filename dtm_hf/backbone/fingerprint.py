"""What tells the weights of a backbone from those of another, whatever type they are stored in."""

import hashlib

import torch
from torch import nn


def weights_fingerprint(module: nn.Module) -> str:
    """
    SHA-256 over names, shapes and bfloat16 values of all parameters, as 16 hexadecimal digits.

    Rounded to bfloat16 so that a float32 and a bfloat16 copy of the same weights agree.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy())
    return digest.hexdigest()[:16]
