import accelerate
import pytest
import torch
import yaml
from vocos import Vocos

from dtm_hf.vocoder.vocoder_vocos import VocosVocoder

OFFICIAL = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"},
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {"input_channels": 100, "dim": 512, "intermediate_dim": 1536, "num_layers": 8},
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": 512, "n_fft": 1024, "hop_length": 256, "padding": "center"},
    },
}


def small(**changes) -> dict:
    config = yaml.safe_load(yaml.safe_dump(OFFICIAL))
    config["backbone"]["init_args"] |= {"dim": 32, "intermediate_dim": 64, "num_layers": 2}
    config["head"]["init_args"]["dim"] = 32
    for path, value in changes.items():
        section, key = path.split("__", 1)
        config[section]["init_args" if key != "class_path" else key] = (
            value if key == "class_path" else config[section]["init_args"] | {key: value}
        )
    return config


def write(folder, config: dict, safetensors: bool = False) -> Vocos:
    """Files of the official format with random weights, and the official class that reads them."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model = Vocos.from_hparams(str(folder / "config.yaml")).eval()
    with torch.no_grad():
        model.head.out.weight.mul_(20)
    if safetensors:
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / "model.safetensors")
    else:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def mels(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 100, generator=torch.Generator().manual_seed(1)) - 3


@pytest.mark.parametrize(
    ("config", "safetensors", "samples"),
    [
        (OFFICIAL, False, 29 * 256),
        (small(), True, 29 * 256),
        (small(head__padding="same", feature_extractor__padding="same"), False, 30 * 256),
    ],
    ids=["official size", "safetensors", "padding same"],
)
def test_official_files_decode_as_vocos_does(tmp_path, config, safetensors, samples):
    reference = write(tmp_path, config, safetensors)
    vocoder = VocosVocoder.from_vocos_checkpoint(tmp_path)
    mel = mels(2, 30)
    waveform = vocoder(mel)
    assert waveform.shape == (2, samples) and not vocoder.training
    torch.testing.assert_close(waveform, reference.decode(mel.transpose(1, 2)), atol=1e-5, rtol=0)
    assert waveform.std() > 0.01
    assert (vocoder.sampling_rate, vocoder.hop_length) == (24000, 256)


def test_default_is_the_official_size():
    assert sum(parameter.numel() for parameter in VocosVocoder().parameters()) == 13_531_650


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(tmp_path, dtype):
    write(tmp_path, small())
    vocoder = VocosVocoder.from_vocos_checkpoint(tmp_path).to(dtype)
    vocoder.save_pretrained(tmp_path / "vocoder", max_shard_size="40KB")
    assert len(list((tmp_path / "vocoder").glob("*.safetensors"))) > 1
    loaded = VocosVocoder.from_pretrained(tmp_path / "vocoder", dtype=dtype)
    assert loaded.dtype == dtype
    assert torch.equal(loaded(mels(1, 20)), vocoder(mels(1, 20)))


def test_bfloat16_is_close_to_float32(tmp_path):
    write(tmp_path, small())
    vocoder = VocosVocoder.from_vocos_checkpoint(tmp_path)
    expected = vocoder(mels(1, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = vocoder(mels(1, 20))
    half = vocoder.to(torch.bfloat16)(mels(1, 20).bfloat16())
    for waveform in (mixed, half):
        assert waveform.dtype == torch.float32
        assert (waveform - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_offloaded_it_sounds_the_same(dtype):
    """Weights are fetched module by module, as `enable_sequential_cpu_offload` does, and left as they were."""
    torch.manual_seed(0)
    vocoder = VocosVocoder(dim=32, intermediate_dim=64, num_layers=2).eval()
    vocoder = vocoder if dtype == torch.float32 else vocoder.to(dtype)
    expected = vocoder(mels(1, 20))
    accelerate.cpu_offload(vocoder, torch.device("cpu"))
    assert vocoder.head.out.weight.device.type == "meta"
    for waveform in (vocoder(mels(1, 20)), vocoder(mels(1, 20))):
        assert torch.equal(waveform, expected)
    assert vocoder.head.out.weight.device.type == "meta" and vocoder.head.out.weight.dtype == dtype


def test_padded_batch_equals_single_items(tmp_path):
    write(tmp_path, small())
    vocoder = VocosVocoder.from_vocos_checkpoint(tmp_path)
    mel, lengths = mels(4, 40), [25, 40, 2, 25]
    waveform = vocoder(mel, torch.tensor(lengths))
    assert waveform.shape == (4, 39 * 256)
    for row, item, length in zip(waveform, mel, lengths, strict=True):
        end = (length - 1) * 256
        torch.testing.assert_close(row[:end], vocoder(item[None, :length])[0], atol=1e-4, rtol=0)
        assert (row[end:] == 0).all()
    loss = vocoder(mel.requires_grad_(), lengths).square().sum()
    assert torch.autograd.grad(loss, mel)[0][0, 25:].abs().max() == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small(feature_extractor__class_path="os.system"), "feature_extractor.class_path.*'os.system'"),
        (small(backbone__class_path="vocos.models.VocosResNetBackbone"), "backbone.class_path.*VocosResNetBackbone"),
        (small(head__class_path="vocos.heads.IMDCTCosHead"), "head.class_path.*IMDCTCosHead"),
        (small(backbone__adanorm_num_embeddings=4), "backbone.init_args.*adanorm_num_embeddings"),
        (small(head__n_fft=2048), "head.init_args.n_fft` is 2048, but elsewhere 1024"),
        (small() | {"head": None}, "head.class_path.*None"),
        ([1, 2], "sections.*list"),
    ],
)
def test_configurations_of_other_models_are_refused(tmp_path, config, message):
    write(tmp_path, small())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=f"config.yaml.*{message}"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)


def test_a_missing_argument_is_named(tmp_path):
    config = small()
    write(tmp_path, config)
    del config["head"]["init_args"]["padding"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"head.init_args.*'padding'.*but has \['dim', 'hop_length', 'n_fft'\]"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = write(tmp_path, small()).state_dict()
    del state["head.out.bias"]
    state["head.extra"] = torch.zeros(1)
    state["backbone.norm.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError) as error:
        VocosVocoder.from_vocos_checkpoint(tmp_path)
    for part in (
        "missing head.out.bias",
        "unexpected head.extra",
        "backbone.norm.weight of shape [7] instead of [32]",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_corrupt_and_missing_files_are_named(tmp_path, name):
    write(tmp_path, small(), safetensors=name.endswith("safetensors"))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="`path_or_repo`.*config.yaml"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)


def test_a_pickle_that_is_no_state_dict_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write(tmp_path, small())
    torch.save({"a": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        VocosVocoder.from_vocos_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()
