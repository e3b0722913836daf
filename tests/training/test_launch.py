"""The launcher's configurations and the commands of docs/scaling.md: Accelerate and the training accept them."""

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from typer.testing import CliRunner

from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.systems import parse_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "training/configs/accelerate"
SCALING = (ROOT / "docs/scaling.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", SCALING, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if not line.startswith("#")
]


def launched(command):
    """What the launcher makes of a command: all of its options, those of the configuration file among them."""
    parser = launch_command_parser()
    args, _, _ = _validate_launch_command(parser.parse_args(command))
    return args


@pytest.mark.parametrize(
    "name, kind",
    [
        ("one_gpu", DistributedType.NO),
        ("multi_gpu", DistributedType.MULTI_GPU),
        ("multi_node", DistributedType.MULTI_GPU),
        ("fsdp", DistributedType.FSDP),
    ],
)
def test_configurations_load(name, kind):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind
    # They are options of the training: it would not listen.
    assert config.mixed_precision is None and not config.dynamo_config


def test_every_configuration_is_documented():
    named = {Path(word).name for command in COMMANDS for word in command if "configs/accelerate" in word}
    assert named == {path.name for path in CONFIGS.iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:70])
def test_documented_commands_are_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    if command[:2] == ["accelerate", "launch"]:
        args = launched(command[2:])
        assert args.training_script == "training/train.py"
        parse_config(args.training_script_args)
        if args.num_processes > 1:
            assert args.multi_gpu or args.use_fsdp
            environment = prepare_multi_gpu_env(args)
            assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    else:
        assert command[:4] == ["python", "-m", "dtm_hf.training.corpus", "prepare"]
        # Every option is known, and no source is asked for.
        result = CliRunner().invoke(app, [*command[3:], "--help"])
        assert result.exit_code == 0, result.output


def test_the_documented_source_is_accepted(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", SCALING, re.DOTALL)
    config = yaml.safe_load((ROOT / "training/configs/dtm_f5_v1_base.yaml").read_text())
    for column in ("dataset", "audio_column", "text_column", "speaker_column"):
        del config["data"][column]
    config["data"] |= yaml.safe_load(block)["data"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    data = parse_config(["--config", str(tmp_path / "config.yaml")]).data
    (source,) = data.all_sources()
    assert (source.dataset, source.revision, source.speaker_column) == (
        "amphion/Emilia-Dataset", "COMMIT", "json.speaker",
    )  # fmt: skip
    assert data.validation_split is None


def test_several_gpus_must_be_counted():
    with pytest.raises(ValueError, match="pass in `--num_processes`"):
        launched(["--config_file", str(CONFIGS / "multi_gpu.yaml"), "train.py"])


@pytest.mark.slow
def test_two_nodes_find_each_other(tmp_path):
    """The launchers of both nodes on one machine, for real; what they start joins in one sum."""
    (tmp_path / "join.py").write_text(
        "import json, sys, torch, torch.distributed as group\n"
        "group.init_process_group('gloo')\n"
        "total = torch.tensor([10.0 ** group.get_rank()])\n"
        "group.all_reduce(total)\n"
        "open(f'{sys.argv[1]}/{group.get_rank()}', 'w').write(json.dumps([group.get_world_size(), total.item()]))\n"
        "group.barrier()\n"
        "group.destroy_process_group()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "multi_node.yaml")]
    command += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    command += ["--main_process_port", str(port)]
    nodes = [
        subprocess.Popen([*command, "--machine_rank", rank, str(tmp_path / "join.py"), str(tmp_path)]) for rank in "01"
    ]
    try:
        assert [node.wait(120) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    assert [json.loads((tmp_path / rank).read_text()) for rank in "01"] == [[2, 11.0], [2, 11.0]]
