"""
SpeechT5 of the official shapes with random weights: is what runs it equal to transformers, and what does a step cost?
`python benchmarks/speecht5.py FOLDER [--only NAME ...]`; ports are kept in FOLDER and not made twice. NAME is one of
eager, compiled, torch_export, onnx, onnx-fp16, onnx-int8 and openvino.

The dropout of the pre-net is given, the same to all. Times are of whole runs, in turns of one process, over their
steps.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech

from dtm_hf import PortedSpeechT5, SpeechT5Reference
from dtm_hf.ports.comparison import difference
from dtm_hf.ports.export import FORMATS, export_component
from dtm_hf.ports.recipes import RECIPES
from dtm_hf.speecht5.generation import EagerSteps, Steps, generate, scaled_masks

# 60 tokens may last 600 steps.
TOKENS, LONGEST = 60, 600
PORTS = {
    "onnx": ("onnx", "fp32"),
    "onnx-fp16": ("onnx", "fp16"),
    "onnx-int8": ("onnx", "int8"),
    "openvino": ("openvino", "fp32"),
    "torch_export": ("torch_export", "fp32"),
}


def random_model(layers: int | None = None) -> SpeechT5ForTextToSpeech:
    """With the sizes of `microsoft/speecht5_tts`, the same at each call."""
    torch.manual_seed(0)
    less = {} if layers is None else {"encoder_layers": layers, "decoder_layers": layers}
    model = SpeechT5ForTextToSpeech(SpeechT5Config(max_text_positions=600, max_speech_positions=1876, **less)).eval()
    # As initialised, all that a layer adds is small, and a fault in it too.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def open_steps(name: str, model: SpeechT5ForTextToSpeech, folder: Path) -> Steps:
    if name in ("eager", "compiled"):
        return EagerSteps(model, compiled=name == "compiled")
    port, (export_format, weights) = folder / name, PORTS[name]
    if not port.is_dir():
        started = time.perf_counter()
        export_component(model, RECIPES[type(model)], port, FORMATS[export_format], weights)
        print(f"{name}: exported in {time.perf_counter() - started:.0f} s", flush=True)
    size = sum(path.stat().st_size for path in port.iterdir())
    print(f"{name}: {size / 1e6:.0f} MB", flush=True)
    return PortedSpeechT5.from_pretrained(port)


def timed(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    started = time.perf_counter()
    output = run()
    return output, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["eager", "onnx", "onnx-int8"])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 600])
    parser.add_argument(
        "--layers", type=int, help="of encoder and decoder, to try the command; the official by default"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = random_model(arguments.layers)
    config = model.config
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, config.vocab_size, (1, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    speaker = torch.randn(1, config.speaker_embedding_dim, generator=generator)
    units = (config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
    kept = torch.bernoulli(torch.full((LONGEST, *units), 0.5), generator=generator)
    reference = SpeechT5Reference(model)
    ways = {name: open_steps(name, model, arguments.folder) for name in arguments.only}
    for name, steps in ways.items():
        # Compiles, and warms up.
        generate(steps, ids, mask, speaker, lambda i: scaled_masks(kept[i], config)[None], 2.0, max_ratio=0.5)
        print(f"{name}: ready", flush=True)
    print(f"steps | way | ms a step | of transformers' | 1 - correlation, largest deviation, of the mel; "
          f"{torch.get_num_threads()} thread(s)")  # fmt: skip
    for count in arguments.steps:
        ratio = count * config.reduction_factor / TOKENS
        expected, own = timed(
            lambda ratio=ratio: reference.generate_speech(
                ids, speaker, mask, masks=kept, threshold=2.0, maxlenratio=ratio
            )
        )
        print(f"{count} | transformers | {1e3 * own / count:.1f} | 1 |", flush=True)
        for name, steps in ways.items():
            mel, took = timed(
                lambda steps=steps, ratio=ratio: generate(
                    steps, ids, mask, speaker, lambda i: scaled_masks(kept[i], config)[None], 2.0, max_ratio=ratio
                )[0]
            )
            found = difference(mel.numpy(), expected.numpy())
            print(f"{count} | {name} | {1e3 * took / count:.1f} | {took / own:.2f} | {found.correlation:.1e}, "
                  f"{found.deviation:.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
