"""One contract for every engine, and what Kokoro alone promises."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dtm_hf.training.corpus.build import build_corpus
from dtm_hf.training.corpus.engine import MissingProgramError, Unspeakable
from dtm_hf.training.corpus.engines import ENGINES, load_engine
from dtm_hf.training.corpus.kokoro import VOICES, Kokoro
from dtm_hf.training.corpus.recipe import Recipe
from dtm_hf.training.corpus.render import SAMPLE_RATE, render

TEXT = "Meet me at half past ten on Monday."


def level(waveform):
    """RMS of each 10 ms in dB below the loudest."""
    blocks = waveform[: len(waveform) // 240 * 240].reshape(-1, 240)
    power = np.mean(blocks.astype(np.float64) ** 2, axis=1) + 1e-14
    return 10 * np.log10(power / power.max())


@pytest.fixture(scope="session")
def kokoro_folder(tmp_path_factory):
    """
    A graph with the inputs and output of Kokoro's: a tone of 1,200 samples a token, shorter with the speed, whose
    frequency is the style's first number. The styles of voice number n are n + row / 1000.
    """
    folder = tmp_path_factory.mktemp("kokoro")
    constants = {"one": 1, "zero": 0}
    nodes = [
        helper.make_node("Shape", ["tokens"], ["shape"], start=1),
        helper.make_node("Cast", ["shape"], ["length"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["length", "speed"], ["slowed"]),
        helper.make_node("Mul", ["slowed", "hop"], ["samples"]),
        helper.make_node("Cast", ["samples"], ["count"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["count"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["time"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["style", "zero"], ["row"], axis=0),
        helper.make_node("Gather", ["row", "zero"], ["pitch"], axis=0),
        helper.make_node("Mul", ["time", "pitch"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["audio"]),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "length"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    outputs = [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["samples"])]
    values = [helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in constants.items()]
    values.append(helper.make_tensor("hop", TensorProto.FLOAT, [1], [1200.0]))
    graph = helper.make_graph(nodes, "tone", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "kokoro.onnx")
    (folder / "voices").mkdir()
    for number, voice in enumerate(VOICES, 1):
        styles = np.repeat((number + np.arange(510) / 1000)[:, None] / 100, 256, axis=1)
        styles.astype(np.float32).tofile(folder / "voices" / f"{voice}.bin")
    return folder


@pytest.fixture(scope="session")
def pipeline_folder(port_source, reference_audio, tmp_path_factory):
    """A tiny pipeline with two voices."""
    folder = tmp_path_factory.mktemp("pipeline")
    port_source.save_pretrained(folder)
    for name, said in {"anna": "What is said.", "ben": "What was said."}.items():
        (folder / f"reference-{name}.wav").write_bytes(reference_audio.read_bytes())
        (folder / f"reference-{name}.txt").write_text(said)
    return folder


@pytest.fixture(params=ENGINES)
def engine(request, kokoro_folder, pipeline_folder):
    model = {"kokoro": str(kokoro_folder), "pipeline": str(pipeline_folder)}.get(request.param)
    engine = load_engine(request.param, model, ENGINES[request.param].voices)
    try:
        engine.require()
    except MissingProgramError as error:
        pytest.skip(str(error))
    return engine


class TestContract:
    def test_every_voice_speaks_at_its_rate(self, engine):
        for voice in engine.voices:
            waveform, rate = engine.speak(TEXT, voice, np.random.default_rng(0))
            assert waveform.dtype == np.float32 and waveform.ndim == 1 and 8000 <= rate <= 48_000
            assert 1 < len(waveform) / rate < 5 and np.abs(waveform).max() <= 1

    def test_the_generator_decides_all_there_is_to_draw(self, engine):
        first, again = (engine.speak(TEXT, engine.voices[0], np.random.default_rng(7))[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)

    def test_longer_texts_and_other_voices_sound_otherwise(self, engine):
        short, long = (engine.speak(text, engine.voices[0], np.random.default_rng(0))[0] for text in ("Yes.", TEXT))
        assert len(short) < len(long)
        other = engine.speak(TEXT, engine.voices[1], np.random.default_rng(0))[0]
        assert len(other) != len(long) or not np.array_equal(other, long)

    def test_unknown_voices_are_refused(self, engine):
        with pytest.raises(ValueError, match="`voice` must be one of .* but got 'bob'"):
            engine.speak(TEXT, "bob", np.random.default_rng(0))

    def test_it_says_what_it_is(self, engine):
        about = engine.about()
        assert set(about) == {"version", "licence", "package"} and any(c.isdigit() for c in about["version"])

    def test_every_voice_renders_trimmed_level_and_dithered(self, engine):
        for voice in engine.voices:
            waveform = render(engine, TEXT, voice, np.random.default_rng(0))
            assert waveform.dtype == np.float32 and waveform.ndim == 1
            assert 1.2 < len(waveform) / SAMPLE_RATE < 4
            rms, peak = np.sqrt(np.mean(waveform**2)), np.abs(waveform).max()
            # kal16 is spiky: its level is what the peak allows.
            assert rms == pytest.approx(0.1, rel=0.01) or (0.08 < rms < 0.1 and peak == pytest.approx(0.98, abs=0.002))
            assert peak < 0.983
            quiet = np.flatnonzero(level(waveform) > -45)
            assert quiet[0] <= 4 and len(level(waveform)) - 1 - quiet[-1] <= 4
            # A run of exact zeros would be digital silence.
            assert np.count_nonzero(waveform == 0) < 5


class TestKokoro:
    VOICE, PARTNER = "af_heart", "af_bella"

    def pitches(self, folder, partners, count=40):
        """Samples and first style number of some takes; without a partner, the number is the voice's own."""
        engine = Kokoro(str(folder), partners)
        takes = [engine.speak(TEXT, self.VOICE, np.random.default_rng(seed))[0] for seed in range(count)]
        # The second sample of a tone is the sine of its frequency.
        return [len(take) for take in takes], 100 * np.arcsin([take[1] for take in takes])

    def test_takes_differ_in_speed_and_style_row_within_bounds(self, kokoro_folder):
        lengths, pitches = self.pitches(kokoro_folder, ())
        tokens = len(Kokoro(str(kokoro_folder))._loaded[0].phonemize(TEXT, "en-us"))
        # Two tokens of padding; 1,200 samples each.
        paces = np.array(lengths) / (1200 * (tokens + 2))
        assert 1 / 1.19 < paces.min() < 0.9 and 1.1 < paces.max() < 1.19
        rows = 1000 * (pitches - (VOICES.index(self.VOICE) + 1)) + 1
        assert tokens / 1.6 < rows.min() < 0.8 * tokens and 1.2 * tokens < rows.max() < 1.6 * tokens

    def test_half_of_the_takes_hold_a_small_share_of_a_partner(self, kokoro_folder):
        _, pure = self.pitches(kokoro_folder, ())
        _, blended = self.pitches(kokoro_folder, (self.VOICE, self.PARTNER))
        share = (blended - pure) / (VOICES.index(self.PARTNER) - VOICES.index(self.VOICE))
        mixed = share > 1e-3
        assert 10 <= mixed.sum() <= 30 and share.max() < 0.21 and np.abs(share[~mixed]).max() < 1e-3

    @pytest.mark.parametrize("partners", [("af_bella", "af_sarah"), ("af_heart", "am_puck", "bf_emma")])
    def test_a_voice_that_is_no_partner_or_has_none_of_its_kind_stays_pure(self, kokoro_folder, partners):
        np.testing.assert_array_equal(self.pitches(kokoro_folder, partners)[1], self.pitches(kokoro_folder, ())[1])

    def test_texts_without_phonemes_or_with_too_many_are_unspeakable(self, kokoro_folder):
        engine = Kokoro(str(kokoro_folder))
        for text in ("", "many words " * 100):
            with pytest.raises(Unspeakable, match="`text` must have 1 to 510 phonemes"):
                engine.speak(text, self.VOICE, np.random.default_rng(0))

    def test_a_folder_without_weights_is_refused_before_any_work(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="`model` must be a folder with kokoro.onnx"):
            Kokoro(str(tmp_path)).require()

    def test_a_name_that_the_hub_does_not_have_is_refused_by_the_argument(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="`model` must be a folder or a Hub name, but got 'org/none'"):
            Kokoro("org/none").require()


class TestPipeline:
    def test_it_says_what_the_pipeline_says_from_the_seed_that_is_drawn(self, pipeline_folder, port_source):
        engine, voice = load_engine("pipeline", str(pipeline_folder)), pipeline_folder / "reference-anna.wav"
        waveform, rate = engine.speak(TEXT, "anna", np.random.default_rng(5))
        seed = int(np.random.default_rng(5).integers(2**63))
        generator = torch.Generator().manual_seed(seed)
        alone = port_source(TEXT, str(voice), "What is said.", generator=generator, max_batch_frames=1).audios[0]
        np.testing.assert_allclose(waveform, alone.clip(-1, 1), atol=1e-5)
        assert rate == port_source.vocoder.sampling_rate

    def test_a_corpus_is_built_of_it_and_only_gone_on_with_by_the_same(self, pipeline_folder, tmp_path):
        recipe = Recipe("pipeline", ("ben", "anna"), num_train=2, num_validation=1, num_test=0)
        card = build_corpus(recipe, tmp_path / "out", workers=1, model=str(pipeline_folder))
        assert card["rows"] == {"train": 2, "validation": 1} and set(card["hours_per_speaker"]) == {"anna", "ben"}
        changed = shutil.copytree(pipeline_folder, tmp_path / "changed")
        (changed / "reference-ben.txt").write_text("What was not said.")
        with pytest.raises(ValueError, match="`out_dir` .* holds another corpus"):
            build_corpus(recipe, tmp_path / "out", workers=1, model=str(changed))

    def test_what_there_is_not_is_refused_before_anything_is_spoken(self, pipeline_folder, tmp_path):
        with pytest.raises(ValueError, match="`voice` must be one of .'anna', 'ben'., but got 'carl'"):
            build_corpus(Recipe("pipeline", ("carl",)), tmp_path / "out", model=str(pipeline_folder))
        bare = shutil.copytree(pipeline_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("reference*"))
        with pytest.raises(MissingProgramError, match="`model` must be a folder that packages voices"):
            load_engine("pipeline", str(bare)).require()
        with pytest.raises(ValueError, match="`--model` .*absent"):
            load_engine("pipeline", str(tmp_path / "absent"))
        engine = load_engine("pipeline", str(pipeline_folder))
        with pytest.raises(Unspeakable):
            engine.speak("語", "anna", np.random.default_rng(0))
        assert not (tmp_path / "out").exists()


def test_a_missing_program_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("flite", "espeak-ng"):
        assert shutil.which(name) is None
        engine = load_engine(name)
        with pytest.raises(MissingProgramError, match=f"`{name}` is not installed: run `apt-get install {name}`"):
            engine.speak(TEXT, engine.voices[0], np.random.default_rng(0))


def test_refusals_by_name():
    with pytest.raises(ValueError, match="`engine` must be one of .* but got 'festival'"):
        load_engine("festival")
    with pytest.raises(ValueError, match="`model` must be left out for flite, .* but got 'weights'"):
        load_engine("flite", "weights")
