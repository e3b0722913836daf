"""A codec as a graph: equal to its source at any length, checked by the gate, mounted in its pipeline."""

import json

import numpy as np
import pytest
import tiny_trm
import torch
from tiny_codec import tiny_codec
from typer.testing import CliRunner

from dtm_hf import PortedCodec, TRMPipeline
from dtm_hf.codec.mimi import decode_codes
from dtm_hf.commands.main import app
from dtm_hf.ports.graphs_codec import CodecGraph, codec_graphs


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folders(vocab_file, tmp_path_factory):
    """Of a pipeline, and of its port."""
    folder = tmp_path_factory.mktemp("codes")
    tiny_trm.pipeline(vocab_file, max_text_length=90, max_audio_frames=90).save_pretrained(folder / "source")
    result = run("export", folder / "source", folder / "port")
    assert result.exit_code == 0, result.output
    return folder / "source", folder / "port"


@pytest.mark.parametrize("books", [1, 2, 4])
def test_the_graph_is_the_codec(books):
    codec = tiny_codec()
    codes = torch.randint(16, (2, books, 9), generator=torch.Generator().manual_seed(0))
    graph = CodecGraph(codec).eval()
    padded = torch.nn.functional.pad(codes, (0, 0, 0, 4 - books))
    with torch.no_grad():
        found = graph(padded, (torch.arange(4) < books).float())["waveform"]
        torch.testing.assert_close(found, codec.decode(codes).audio_values[:, 0], atol=1e-5, rtol=1e-5)


def test_a_codec_that_looks_ahead_is_refused():
    codec = tiny_codec()
    codec.config.use_causal_conv = False
    with pytest.raises(ValueError, match="causal"):
        codec_graphs(codec)


def test_a_port_passes_the_gate_and_another_codecs_does_not(folders, tmp_path, vocab_file):
    source, port = folders
    result = run("parity", source, port, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    graph = report["rungs"]["graphs"]["graphs"]["codec/decoder"]
    assert report["passed"] and graph["calls"] >= 4 and graph["correlation"] < 1e-9
    other = tiny_trm.pipeline(vocab_file)
    other.codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.mul_(1.5)
    other.codec.decoder.decoder_seanet.layers[0].conv.weight.data.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    result = run("parity", tmp_path / "other", port)
    assert result.exit_code == 1 and "made of another codec" in result.output + result.stderr


def test_a_pipeline_speaks_with_it_and_codes_no_recordings(folders, reference_audio):
    source, port = (TRMPipeline.from_pretrained(folder) for folder in folders)
    assert type(port.codec) is PortedCodec and len(list(folders[1].glob("codec/*.onnx"))) == 1
    for pipe in (source, port):
        pipe.set_progress_bar_config(disable=True)
    text = ["yes, that was said.", "no"]
    said, ported = (p(text, "bob", generator=torch.Generator().manual_seed(0)).audios for p in (source, port))
    for one, other in zip(said, ported, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    streamed = np.concatenate(list(port.stream("no", temperature=0)))
    np.testing.assert_allclose(streamed, port("no", temperature=0).audios[0], atol=1e-5)
    assert decode_codes(port.codec, [torch.zeros(2, 3, dtype=torch.long)])[0].shape == (3 * 1920,)
    with pytest.raises(ValueError, match="codes no recordings"):
        port("yes", reference_audio=reference_audio, reference_text="some words.")
