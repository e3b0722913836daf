"""
What distilling a model takes in memory: three networks, or one with two adapters.

    python benchmarks/tdm_memory.py [--model embedded|full] [--rank 16] [--dtype bfloat16] [--frames 1000]

Parameters, gradients and AdamW's moments are counted from the tensors themselves, of the same classes as in training.
With the embedded size a step is taken too (rollout, estimator, student, one batch); with a GPU its peak is measured,
on a CPU the resident size of the process is, in a process for each form. The full model is counted on the meta
device, where tensors have sizes and no content.
"""

import argparse
import json
import resource
import subprocess
import sys

import model_sizes
import torch

MIB = 2**20


def build(model: str, full_parameters: bool, rank: int, dtype: torch.dtype, device: str):
    """The networks of a distillation around a backbone of the size asked for."""
    from dtm_hf import F5Backbone
    from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks

    with torch.device(device):
        backbone = F5Backbone() if model == "full" else model_sizes.random_backbone(model, 71)
        if not full_parameters and dtype != torch.float32:
            # What is trained is float32 in either form.
            backbone.to(dtype)
        return AdapterNetworks(backbone, F5_LAYERS, rank, step_counts=(1, 2, 4), full_parameters=full_parameters)


def counted(networks) -> dict[str, float]:
    """MiB of all networks' parameters, and of the gradients and the two moments of those that are trained."""
    parameters = {id(p): p for module in (*networks.modules, networks.trained) for p in module.parameters()}.values()
    trained = list(networks.trained.parameters())

    def size(tensors) -> float:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB

    figures = {"parameters": size(parameters), "gradients": size(trained), "AdamW's moments": 2 * size(trained)}
    return figures | {"total": sum(figures.values())}


def step(networks, frames: int, device: str) -> float:
    """Take one step of student and estimator; returns the peak in MiB."""
    from dtm_hf import DTMScheduler
    from dtm_hf.training.objectives.arguments import TDMSpeechArguments
    from dtm_hf.training.objectives.conditioning import MelBatch
    from dtm_hf.training.speech.tdm import TDMSpeechObjective

    networks.to(device)
    objective = TDMSpeechObjective(TDMSpeechArguments(), networks, DTMScheduler(4, 0))
    optimizers = {
        role: torch.optim.AdamW(networks.parameters(role).values(), lr=1e-4) for role in ("student", "estimator")
    }
    batch = MelBatch(
        torch.randn(4, frames // 4, 100, device=device),
        torch.ones(4, frames // 4, dtype=torch.bool, device=device),
        torch.ones(4, 30, dtype=torch.long, device=device),
        torch.full((4,), frames // 16, device=device),
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    walked = objective.prepare(batch)
    for phase in objective.phases(0):
        phase.loss(None, walked).loss.backward()
        optimizers[phase.group].step()
        optimizers[phase.group].zero_grad()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(options: argparse.Namespace, form: str) -> dict[str, float]:
    """Figures of one form, from a process of its own: what the other form has taken must not be in the peak."""
    argv = [sys.executable, __file__, *sys.argv[1:], "--form", form]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    model_sizes.add_options(parser)
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the frozen base")
    parser.add_argument("--frames", type=int, default=1000, help="of the batch of the measured step")
    parser.add_argument("--form", choices=("three networks", "adapters"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        on_meta = options.model == "full" and device == "cpu"
        dtype = getattr(torch, options.dtype)
        networks = build(
            options.model, options.form == "three networks", options.rank, dtype, "meta" if on_meta else "cpu"
        )
        figures = counted(networks)
        if not on_meta:
            name = "peak of the GPU" if device == "cuda" else "peak of the process"
            figures[name] = step(networks, options.frames, device)
        print(json.dumps(figures))
        return
    forms = {form: measured(options, form) for form in ("three networks", "adapters")}
    print(f"| MiB, {options.model} model | " + " | ".join(forms) + " |")
    print("|---|---|---|")
    for name in forms["adapters"]:
        print(f"| {name} | " + " | ".join(f"{figures[name]:,.1f}" for figures in forms.values()) + " |")


if __name__ == "__main__":
    main()
