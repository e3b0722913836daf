"""One tiny set of components, shared by all tests. Imports are inside the fixtures: many tests need no network."""

import atexit
import os
import tempfile
from contextlib import ExitStack

import pytest
from loopback import environment, free_port
from tiny import MEAN_MEL, SAMPLING_RATE, VOCABULARY, randomise, voice

from dtm_hf.files import temporary_folder


def _own_temporary_folder() -> str:
    """
    What the tests, and the libraries and processes that they start, leave among the temporary files: in a folder that
    goes with this process, or, where it was killed, with the next. Pytest's own stay where they are: they are looked
    at when a test has failed.
    """
    system = tempfile.gettempdir()
    # The workers of xdist share the folder of who started them: a socket's path has room for one.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        stack = ExitStack()
        atexit.register(stack.close)
        os.environ["TMPDIR"] = str(stack.enter_context(temporary_folder("dtm-hf-tests")))
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", system)
        tempfile.tempdir = None
    return tempfile.mkdtemp(prefix="hf-home-")


# Before anything imports `huggingface_hub`, which reads them once: no test reaches a Hub other than its own.
_variables = environment(f"http://127.0.0.1:{free_port()}", _own_temporary_folder())
os.environ.clear()
os.environ.update(_variables)


def pytest_collection_modifyitems(items):
    """Files with slow tests first: where several processes share the files out, none is left with a long one alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def vocab_file(tmp_path_factory):
    """A vocabulary of 59 characters, one a line."""
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{character}\n" for character in VOCABULARY), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_backbone():
    """Builds a frozen two-block backbone with random weights; keyword arguments override its configuration."""
    import torch

    from dtm_hf import F5Backbone

    def make(seed: int = 0, **overrides):
        config = {
            "dim": 64,
            "depth": 2,
            "heads": 1,
            "text_num_embeds": len(VOCABULARY),
            "text_dim": 32,
            "conv_layers": 1,
            "name": "tiny",
            "license": "mit",
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = F5Backbone(**config | overrides)
        randomise(backbone, seed)
        return backbone

    return make


@pytest.fixture(scope="session")
def make_head():
    """Builds a two-block head for the tiny backbone; untrained (D = 0) unless `random_weights`."""
    import torch

    from dtm_hf import DTMHead, DTMHeadConfig

    def make(seed: int = 0, random_weights: bool = True, **overrides):
        config = {"backbone_hidden_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "time_embed_dim": 16}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = DTMHead(DTMHeadConfig(**config | overrides)).eval()
        if random_weights:
            randomise(head, seed)
        return head

    return make


@pytest.fixture(scope="session")
def make_guidance_head(make_head, backbone):
    """Builds a head that says what guidance adds: a copy of the first block of the tiny backbone, or convolutions."""

    def make(architecture: str = "transformer", random_weights: bool = False, **overrides):
        config = {
            "prediction": "guidance",
            "architecture": architecture,
            "residual_layers": 1,
            "guidance_scale": 3.0,
            "guidance_scale_range": [1.0, 4.0],
            "guidance_end": 0.3,
            "mean_mel": MEAN_MEL,
        }
        if architecture == "transformer":
            config |= {"hidden_size": 64, "num_hidden_layers": 1, "ffn_mult": 2, "num_attention_heads": 1}
        head = make_head(random_weights=False, **config | overrides)
        if head.body is not None:
            head.body.copy_from(backbone.dit.state_dict())
        if random_weights:
            randomise(head, 0)
        return head

    return make


@pytest.fixture(scope="session")
def backbone(make_backbone):
    """Shared: a test that changes weights or state makes its own with `make_backbone`."""
    return make_backbone()


@pytest.fixture(scope="session")
def head(make_head):
    """Shared, with random weights: a test that trains makes its own with `make_head`."""
    return make_head(architecture="conv")


@pytest.fixture(scope="session")
def tokenizer(vocab_file):
    from dtm_hf import F5Tokenizer

    return F5Tokenizer(vocab_file)


@pytest.fixture(scope="session")
def feature_extractor():
    from dtm_hf import F5FeatureExtractor

    return F5FeatureExtractor()


@pytest.fixture(scope="session")
def vocoder():
    from dtm_hf import GriffinLimVocoder

    return GriffinLimVocoder(num_iters=2)


@pytest.fixture
def scheduler():
    from dtm_hf import DTMScheduler

    return DTMScheduler(num_inference_steps=4, num_head_steps=2)


@pytest.fixture
def tiny_pipeline(backbone, head, tokenizer, feature_extractor, vocoder, scheduler):
    """A complete pipeline; its components are shared, the pipeline and its scheduler are the test's own."""
    from dtm_hf import DTMPipeline

    pipeline = DTMPipeline(
        backbone=backbone,
        head=head,
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def port_source(make_backbone, make_head, tokenizer, feature_extractor):
    """The pipeline that `port` is made of: with every kind of graph that there is."""
    import torch

    from dtm_hf import DTMPipeline, DTMScheduler, VocosVocoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocoder = VocosVocoder(dim=32, intermediate_dim=64, num_layers=1).eval()
    pipeline = DTMPipeline(
        backbone=make_backbone(text_embedding_average_upsampling=True),
        head=make_head(architecture="conv", guidance_scale=2.0, guidance_scale_range=[1.0, 3.0]),
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(num_inference_steps=3, num_head_steps=2),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def exported_once(pipeline, name, tmp_path_factory):
    """Folder of a port, which the first test process that needs it exports for all: half a minute for each of them."""
    from filelock import FileLock

    from dtm_hf.ports.export import export_pipeline

    base = tmp_path_factory.getbasetemp()
    # The processes of one run have a folder each in that of the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            export_pipeline(pipeline, shared / f"{name}.partial")
            (shared / f"{name}.partial").rename(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def port(port_source, tmp_path_factory):
    """Folder of a port of a tiny pipeline, in ONNX and float32. A test that changes a file copies it."""
    return exported_once(port_source, "tiny-port", tmp_path_factory)


@pytest.fixture(scope="session")
def guidance_pipeline(backbone, make_guidance_head, tokenizer, feature_extractor, vocoder):
    """With a head that says what guidance adds, of random weights; it runs in the middle two of four steps."""
    from dtm_hf import DTMPipeline, DTMScheduler

    pipeline = DTMPipeline(
        backbone=backbone,
        head=make_guidance_head(random_weights=True),
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(num_inference_steps=4, num_head_steps=1),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def guidance_port(guidance_pipeline, tmp_path_factory):
    """Folder of a port of it, in ONNX and float32. A test that changes a file copies it."""
    return exported_once(guidance_pipeline, "guidance-port", tmp_path_factory)


@pytest.fixture(scope="session")
def reference_audio(tmp_path_factory):
    """Path of a 1.2 s recording."""
    import soundfile

    path = tmp_path_factory.mktemp("reference") / "voice.wav"
    soundfile.write(path, voice(1.2), SAMPLING_RATE)
    return path


@pytest.fixture(scope="session")
def mel_batch(feature_extractor, tokenizer):
    """Two utterances of different lengths as the training objectives see them, one of them a prompt+target pair."""
    import torch

    from dtm_hf.training.objectives.conditioning import MelBatch

    waves = [voice(0.5), voice(0.35, pitch=190, seed=1)]
    lengths = [len(wave) for wave in waves]
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)
    mel = feature_extractor.log_mel(padded, lengths)
    frames = torch.tensor([feature_extractor.num_frames(length) for length in lengths])
    return MelBatch(
        mel=mel,
        attention_mask=torch.arange(mel.shape[1])[None] < frames[:, None],
        text_ids=tokenizer(["hello there", "yes"]),
        prompt_frames=torch.tensor([12, 0]),
    )


@pytest.fixture(scope="session")
def timed_pipeline(make_backbone, tokenizer, feature_extractor, vocoder):
    """A pipeline without a head whose backbone is told how long each token lasts. Shared: its lengths are drawn."""
    import torch

    from dtm_hf import DTMPipeline, DTMScheduler, TextAligner, TokenDurations

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        aligner = TextAligner(len(VOCABULARY), hidden_size=16, embedding_size=8)
        durations = TokenDurations(len(VOCABULARY), hidden_size=16, num_layers=2)
    randomise(durations, 1)
    pipeline = DTMPipeline(
        backbone=make_backbone(text_alignment="durations"),
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(num_inference_steps=2, num_head_steps=0),
        duration_predictor=durations,
        text_aligner=aligner,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
