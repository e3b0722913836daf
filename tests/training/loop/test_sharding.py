"""A network in shards (FSDP): the same training as in one piece, resumed too, and the same files at the end."""

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from training_runs import ROOT, Run, flow_matching_arguments, log, write_corpus

from dtm_hf.training.loop.sharding import check_sharding
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

FSDP = ROOT / "training/configs/accelerate/fsdp.yaml"
WEIGHTS = "backbone/diffusion_pytorch_model.safetensors"

# Accelerate takes FSDP up on accelerators alone, though it runs on CPUs: here its state is told so. The run is ended
# after two steps and resumed, in the same processes: to start others takes longer than to train.
ON_CPUS = """
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

original = AcceleratorState.__init__


def init(self, *args, fsdp_plugin=None, **kwargs):
    first = not AcceleratorState._shared_state
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if first:
        told = {"distributed_type": DistributedType.FSDP, "device": torch.device("cpu")}
        PartialState._shared_state |= told
        AcceleratorState._shared_state |= told | {"fsdp_plugin": fsdp_plugin}


AcceleratorState.__init__ = init
Accelerator.end_training = lambda self: None
from dtm_hf.training.systems import parse_config
from dtm_hf.training.systems import build_task
from dtm_hf.training.train import main
from dtm_hf.training.trainer import Trainer


def build(config):
    task = build_task(config)
    task.components.backbone.register_to_config(name="built by the caller")
    return task


main([*ARGV, "--max_steps", "2"])
Trainer(parse_config(ARGV), build).train()
"""


def arguments(corpus, output_dir, *more):
    more = ["--bucket_size", "5", "--max_steps", "4", "--lr_scheduler", "constant_with_warmup", *more]
    return flow_matching_arguments(corpus, output_dir, *more)


@pytest.mark.slow
def test_shards_train_and_resume_as_one_piece_does(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", train_rows=24, shards=4)
    argv = arguments(corpus, tmp_path / "run")
    (tmp_path / "on_cpus.py").write_text(f"ARGV = {argv}\n{ON_CPUS}")
    # What the launcher tells its processes with the configuration that the documentation names.
    launch = ["--num_processes", "2", "--main_process_port", "0", "--config_file", str(FSDP), "train.py"]
    told, _, _ = _validate_launch_command(launch_command_parser().parse_args(launch))
    run = Run(argv, processes=2, script=tmp_path / "on_cpus.py", **prepare_multi_gpu_env(told))
    assert run.wait() == 0, run.output.read_text()[-3000:]
    assert "Resumed from" in run.output.read_text() and "at step 2" in run.output.read_text()
    assert len(list((tmp_path / "run/checkpoint-00000004/pytorch_model_fsdp_0").glob("*.distcp"))) == 2

    Trainer(
        parse_config(arguments(corpus, tmp_path / "one", "--gradient_accumulation_steps", "2", "--num_workers", "2"))
    ).train()
    for name in ("loss", "grad_norm", "validation_loss"):
        assert log(tmp_path / "run", name) == pytest.approx(log(tmp_path / "one", name), rel=1e-4), name
    weights = load_file(tmp_path / "run" / WEIGHTS)
    for name, value in load_file(tmp_path / "one" / WEIGHTS).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-6)
    config = json.loads((tmp_path / "run/backbone/config.json").read_text())
    # The shards are gathered into a task that the caller's function makes, and not into another.
    assert (config["_class_name"], config["name"]) == ("F5Backbone", "built by the caller")


@pytest.mark.parametrize(
    "options, version, match",
    [
        (["--objective", "dtm", "--base_model", "org/base"], 2, "`objective` must be 'flow_matching' .* got 'dtm'"),
        (["--optimizer", "muon"], 2, "`optimizer` must be one of AdamW .* got 'muon'"),
        (["--push_to_hub", "org/name"], 2, "`push_to_hub` must be left out .* got 'org/name'"),
        (["--sample_prompts", "slt|Hello."], 2, "`sample_prompts` must be left out"),
        ([], 1, "`fsdp_version` must be 2, but got 1"),
    ],
)
def test_what_needs_the_network_in_one_piece_is_refused(options, version, match, tmp_path):
    config = parse_config(arguments(tmp_path, tmp_path / "run", *options))
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=version))
    with pytest.raises(ValueError, match=match):
        check_sharding(SimpleNamespace(distributed_type=DistributedType.FSDP, state=state), config, ["flow_matching"])
    check_sharding(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU), config, ["flow_matching"])
