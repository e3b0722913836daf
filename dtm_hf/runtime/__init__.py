"""Speaking without PyTorch: numpy and ONNX Runtime or OpenVINO, and no torch, diffusers, transformers or f5_tts."""

from .batcher import Batcher
from .noise import NoiseGenerator
from .speaker import Speaker, Speech

__all__ = ["Batcher", "NoiseGenerator", "Speaker", "Speech"]
