"""A codec as a graph: equal to its source at any length, checked by the gate, mounted in its pipeline."""

import json
import shutil

import numpy as np
import onnx
import pytest
import tiny_trm
import torch
from sabotage import edit_graph, failed, kernels_back_to_front, transposed, without, wrapped
from tiny import randomise
from tiny_codec import tiny_codec
from typer.testing import CliRunner

from dtm_hf import PortedCodec, PortedTRM, TRMPipeline
from dtm_hf.codec.mimi import decode_codes
from dtm_hf.commands.main import app
from dtm_hf.ports.graphs_codec import CodecGraph, codec_graphs
from dtm_hf.ports.graphs_trm import trm_graphs
from dtm_hf.ports.parity_trm import check_trm_parity

CYCLE = ("answer", "latent", "codes", "context", "text_mask", "audio_mask")


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
    assert set(report["rungs"]["graphs"]["graphs"]) == {
        "codec/decoder", "model/begin", "model/cycle", "model/logits", "model/text"
    }  # fmt: skip
    assert all(row["codes that differ"] == 0 for row in report["rungs"]["free run"]["utterances"])
    assert report["cost"]["load seconds"]["port"] > 0 and report["cost"]["speaking"]["port"]["first audio seconds"] > 0
    other = tiny_trm.pipeline(vocab_file)
    other.codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.mul_(1.5)
    other.codec.decoder.decoder_seanet.layers[0].conv.weight.data.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    result = run("parity", tmp_path / "other", port)
    assert result.exit_code == 1 and "made of another codec" in result.output + result.stderr


@pytest.fixture
def check(folders):
    source = TRMPipeline.from_pretrained(folders[0])
    return lambda port: failed(check_trm_parity(source, port, time_passes=0, batches=((0, 1),)))


@pytest.mark.parametrize("fault", ["transposed", "kernels", "off by one", "swapped codebooks", "used"])
def test_a_fault_of_the_codec_is_found(folders, check, tmp_path, fault):
    folder = shutil.copytree(folders[1], tmp_path / "port")
    # A single matrix of its attention, which is scaled down a hundredfold, would change nothing that is heard.
    changes = {"transposed": transposed(64, every=True), "kernels": kernels_back_to_front}
    if fault in changes:
        edit_graph(folder / "codec" / "decoder.onnx", changes[fault])
    port = TRMPipeline.from_pretrained(folder)
    graphs = port.codec.graphs
    if fault == "off by one":
        wrapped(graphs, "decoder", lambda run, codes, used: run(codes=np.roll(codes, 1, axis=2), used=used))
    elif fault == "swapped codebooks":
        wrapped(graphs, "decoder", lambda run, codes, used: run(codes=codes[:, [1, 0, 2, 3]], used=used))
    elif fault == "used":
        without(graphs, "decoder", "used")
    assert "codec/decoder" in check(port)


@pytest.mark.parametrize("graph", ["text", "cycle", "logits"])
def test_a_transposed_weight_of_the_network_is_found(folders, check, tmp_path, graph):
    folder = shutil.copytree(folders[1], tmp_path / "port")
    # Of the logits: the projection of each codebook.
    edit_graph(folder / "model" / f"{graph}.onnx", transposed(32) if graph != "logits" else turned)
    assert f"model/{graph}" in check(TRMPipeline.from_pretrained(folder))


def turned(graph):
    (books,) = (t for t in graph.initializer if len(t.dims) == 3)
    books.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(books)[:, ::-1].copy(), books.name))


@pytest.mark.parametrize(
    ("graph", "name"),
    [("text", "text_ids"), ("text", "speaker_ids"), *(("cycle", name) for name in CYCLE), ("logits", "codebook")],
)
def test_a_dropped_input_of_the_network_is_found(folders, check, graph, name):
    port = TRMPipeline.from_pretrained(folders[1])
    # Of a mask, all is valid; of a voice, it is another.
    if name == "speaker_ids":
        wrapped(port.model.graphs, graph, lambda run, **arrays: run(**arrays | {name: arrays[name] + 1}))
    else:
        without(port.model.graphs, graph, name)
    assert f"model/{graph}" in check(port)


@pytest.mark.parametrize("fault", ["off by one", "swapped", "rows", "fed back"])
def test_a_fault_of_the_recursion_is_found(folders, check, fault):
    port = TRMPipeline.from_pretrained(folders[1])
    cycle = port.model.cycle
    if fault == "fed back":
        # As if the loop began anew each time: no graph is wrong, and yet the speech is.
        port.model.cycle = lambda answer, latent, *rest: cycle(*port.model.begin(rest[-1]), *rest)
        assert check(port) == {"speech", "sound"}
        return
    if fault == "off by one":
        run = lambda run, **arrays: {name: np.roll(value, 1, axis=1) for name, value in run(**arrays).items()}  # noqa: E731
    elif fault == "rows":
        # Branches are rows of a batch, as texts are.
        run = lambda run, **arrays: {name: value[::-1].copy() for name, value in run(**arrays).items()}  # noqa: E731
    else:
        run = lambda run, **arrays: dict(zip(("next_latent", "next_answer"), run(**arrays).values(), strict=True))  # noqa: E731
    wrapped(port.model.graphs, "cycle", run)
    assert check(port) == {"model/cycle", "speech", "sound"}


@pytest.mark.parametrize("changes", [{"share_output_heads": True, "update": "document"}, {}])
def test_the_graphs_are_the_network(changes):
    model = tiny_trm.model(**changes)
    randomise(model, 0)
    graphs = {graph.name: graph for graph in trm_graphs(model)}
    generator = torch.Generator().manual_seed(0)
    text, mask = tiny_trm.TEXT, tiny_trm.MASK
    codes = torch.randint(13, (2, 3, 9), generator=generator)
    with torch.no_grad():
        context = model.encode_text(text, tiny_trm.SPEAKERS)
        answer, latent = (state + torch.randn(state.shape, generator=generator) for state in model.begin(mask))
        output = model.cycle(answer, latent, codes, context, text != 0, mask)
        found = graphs["text"](text_ids=text.numpy(), speaker_ids=tiny_trm.SPEAKERS.numpy())
        np.testing.assert_allclose(found["context"], context, atol=1e-5)
        begun = graphs["begin"](audio_mask=mask.numpy())
        np.testing.assert_array_equal(begun["latent"], model.begin(mask)[1])
        states = {"answer": answer.numpy(), "latent": latent.numpy(), "codes": codes.numpy()}
        masks = {"text_mask": (text != 0).numpy(), "audio_mask": mask.numpy()}
        cycled = graphs["cycle"](**states, context=context.numpy(), **masks)
        np.testing.assert_allclose(cycled["next_answer"][mask], output.answer[mask], atol=1e-5)
        np.testing.assert_allclose(cycled["next_latent"][mask], output.latent[mask], atol=1e-5)
        for book in range(3):
            logits = graphs["logits"](answer=answer.numpy(), codebook=np.array([book]))["logits"]
            np.testing.assert_allclose(logits, model.logits(answer, book), atol=1e-4)


def test_a_pipeline_speaks_with_it_and_codes_no_recordings(folders, reference_audio):
    source, port = (TRMPipeline.from_pretrained(folder) for folder in folders)
    assert type(port.codec) is PortedCodec and len(list(folders[1].glob("codec/*.onnx"))) == 1
    assert type(port.model) is PortedTRM and port.card_values()["parameters"] == source.card_values()["parameters"]
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
