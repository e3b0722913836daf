"""Weights from outside, of any form that they are published in: read without running anything that they hold."""

import os
import pickle
from collections.abc import Mapping

import torch


def read_weights(path: str | os.PathLike) -> dict:
    """
    The content of a `.safetensors` file, or else of one that `torch.save` wrote, on the CPU.

    Raises:
        ValueError: if it is damaged, not a checkpoint, or holds anything but tensors and plain values.
    """
    name = os.fspath(path)
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Its message explains how to run the code that such a file may hold. That is never done here.
        raise ValueError(
            f"{name} cannot be read as weights: it is damaged, not a checkpoint, or holds objects besides tensors, "
            "which are refused, for reading them could run code of others. Save its state dict alone, best as "
            ".safetensors."
        ) from error
    except OSError:
        raise
    except Exception as error:
        # Each format has its own family of errors for a damaged file; all mean the same to the user.
        message = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} cannot be read as weights ({message}): damaged or not a checkpoint.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} must hold named tensors, but holds a {type(content).__name__}.")
    return dict(content)


def check_tensors(state: Mapping, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    The mapping, if it is one of names to tensors.

    Raises:
        ValueError: naming the first entry that is not.
    """
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{os.fspath(path)!r} must hold named tensors, but `{name}` in it is a {type(value).__name__}."
            )
    return dict(state)
