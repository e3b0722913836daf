"""The page itself: what stands where, and what its buttons do."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from dtm_hf.app.arms import MAX_ARMS, Arms
from dtm_hf.app.desk import MAX_CHARACTERS, Desk, Settings, Tally, check_settings, in_page_words, told_on_the_page
from dtm_hf.app.live import Streams, player
from dtm_hf.app.paragraphs import split_paragraphs
from dtm_hf.app.tables import TableRow, read_table, write_archive
from dtm_hf.app.uploads import MAX_AGE_SECONDS, room_refused
from dtm_hf.pictures import save_mel_picture
from dtm_hf.serving.encoding import encode

# Between two paragraphs of a long text.
_PAUSE_SECONDS = 0.3
_AT_ONCE = 16


class Page:
    """
    The page of a desk.

    Args:
        desk ([`Desk`]): who speaks.
        streams ([`Streams`]): where a browser hears what is spoken while it is.
        arms ([`Arms`], *optional*): for the second tab; a port has none.
        folder (`Path`): for what is written on the way; the page's own.
    """

    def __init__(self, desk: Desk, streams: Streams, arms: Arms | None, folder: Path):
        self.desk, self.streams, self.arms, self.folder = desk, streams, arms, folder

    # What the buttons do

    def speak(self, model, text, voice, recording, said, steps, guidance, seed, speed) -> Iterator[tuple]:
        """Sound as it comes; then the whole, its picture and what it cost."""
        with told_on_the_page():
            settings = _settings(steps, guidance, seed, speed)
            chosen = self.desk.voice(voice, recording, said)
            tally = Tally()
            waves = self.desk.stream(model, text, chosen, settings, tally)
            yield from self._heard(model, waves, tally, with_picture=True)

    def speak_long(self, model, text, voice, steps, guidance, seed, speed) -> Iterator[tuple]:
        """Paragraph by paragraph, each in its voice."""
        with told_on_the_page():
            settings = _settings(steps, guidance, seed, speed)
            if len(text or "") > MAX_CHARACTERS:
                raise ValueError(f"`text` must be at most {MAX_CHARACTERS} characters, but got {len(text)}.")
            paragraphs = split_paragraphs(text or "", self.desk.voices, voice)
            tally, rate = Tally(), self.desk.batcher(model).speaker.sampling_rate

            def waves() -> Iterator[np.ndarray]:
                for number, (name, paragraph) in enumerate(paragraphs):
                    if number:
                        yield np.zeros(int(_PAUSE_SECONDS * rate), dtype=np.float32)
                    yield from self.desk.stream(model, paragraph, self.desk.voice(name), settings, tally)

            yield from self._heard(model, waves(), tally, with_picture=False)

    def speak_table(self, model, table, voice, steps, guidance, seed, speed) -> Iterator[tuple]:
        """A CSV to a ZIP of WAVs."""
        with told_on_the_page():
            settings = _settings(steps, guidance, seed, speed)
            self._check_room()
            if not table:
                raise ValueError("A table is missing: a CSV with a column “text”.")
            rows, tally = read_table(table), Tally()
            rate = self.desk.batcher(model).speaker.sampling_rate

            def one(row: TableRow) -> bytes:
                own = Settings(
                    settings.steps,
                    settings.guidance,
                    settings.seed if row.seed is None else row.seed,
                    settings.speed if row.speed is None else row.speed,
                )
                chosen = self.desk.voice(row.voice or voice)
                return encode(_joined(self.desk.stream(model, row.text, chosen, own, tally)), rate, "wav")

            failures: list[str] = []
            with _kept_if_whole(self.folder) as aside:
                path = aside / "speech.zip"
                for done in write_archive(rows, path, one, in_page_words, failures):
                    yield gr.skip(), f"{done} of {len(rows)} rows"
            told = f"{len(rows) - len(failures)} of {len(rows)} rows spoken: {tally}."
            yield str(path), "\n".join([told, *failures[:20], *(["..."] if len(failures) > 20 else [])])

    def compare(self, names, text, voice, recording, said, seed) -> Iterator[list]:
        """The same sentence by several arms, each as soon as it is spoken."""
        with told_on_the_page():
            settings = _settings(None, None, seed, 1.0)
            check_settings(settings)
            self._check_room()
            chosen = self.desk.voice(voice, recording, said)
            rate = self.arms.pipeline.vocoder.sampling_rate
            updates: list[Any] = [gr.Audio(visible=False)] * MAX_ARMS
            dearest = None
            for index, speech in enumerate(self.arms.run(names, text, chosen, settings.seed)):
                dearest = dearest or speech.seconds
                label = (
                    f"{speech.arm.name}: {speech.passes} passes, {speech.seconds:.2f} s "
                    f"({speech.seconds / dearest:.2f} of the first)"
                )
                updates[index] = gr.Audio((rate, _to_int16(speech.audio)), label=label, visible=True)
                yield updates

    def hear(self, recording, said) -> str:
        """What is said in a recording, where nobody has written it; of one that was taken away, nothing."""
        with told_on_the_page():
            if not recording:
                return ""
            return said if (said or "").strip() else self.desk.transcribe(recording)

    def _check_room(self) -> None:
        if refused := room_refused(self.folder):
            raise ValueError(refused)

    def _heard(self, model: str, waves: Iterator[np.ndarray], tally: Tally, with_picture: bool) -> Iterator[tuple]:
        speaker = self.desk.batcher(model).speaker
        self._check_room()
        rate, parts = speaker.sampling_rate, []
        stream = self.streams.open(rate)
        try:
            for wave in waves:
                parts.append(wave)
                stream.put(wave)
                # The address comes with the first of it: what is refused makes no sound.
                shown = player(stream) if len(parts) == 1 else gr.skip()
                yield (shown, gr.skip(), *([gr.skip()] if with_picture else []), f"{tally} ...")
            audio = np.concatenate(parts)
        finally:
            stream.end()
        told = f"{tally}."
        picture = [_picture(speaker.log_mel(audio), rate, self.folder)] if with_picture else []
        yield (gr.skip(), (rate, _to_int16(audio)), *picture, told)

    # What stands where

    def build(self, title: str) -> gr.Blocks:
        """The page as Gradio has it; mount it with [`~dtm_hf.app.site.create_site`]."""
        # Temporary files are looked at every five minutes, and go when they are an hour old.
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(300, MAX_AGE_SECONDS)) as blocks:
            gr.Markdown(f"# {title}\nText to speech in few steps.")
            with gr.Accordion("How to speak", open=False):
                model = gr.Dropdown(list(self.desk.models), label="Model", elem_id="model")
                with gr.Row():
                    steps = gr.Number(None, label="Steps (empty: the model's own)", precision=0, elem_id="steps")
                    guidance = gr.Number(None, label="Guidance (empty: the model's own)", elem_id="guidance")
                    seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
                    speed = gr.Slider(0.3, 2.0, 1.0, step=0.05, label="Speed", elem_id="speed")
            names = sorted(self.desk.voices)
            voice = gr.Dropdown(names, value=names[0], label="Voice", elem_id="voice")
            with gr.Accordion("A recording of your own", open=False, elem_id="own"):
                gr.Markdown("Up to 12 seconds are used. Clone a voice only with the consent of its owner.")
                # The buttons that it has by itself offer to publish what was recorded.
                recording = gr.Audio(type="filepath", label="Recording", buttons=["download"], elem_id="recording")
                heard = "Written by the recogniser as soon as the recording is here; mend what it misheard."
                hint = None if self.desk.hear is None else heard
                said = gr.Textbox(label="What is said in it", placeholder=hint, elem_id="said")
            how = [steps, guidance, seed, speed]
            if self.desk.hear is not None:
                recording.change(self.hear, [recording, said], said, concurrency_limit=1, api_visibility="private")
            with gr.Tab("Speak", elem_id="tab-speak"):
                self._speak_tab([model], [voice, recording, said, *how])
            if self.arms is not None:
                with gr.Tab("Compare", elem_id="tab-compare"):
                    self._compare_tab([voice, recording, said, seed])
            with gr.Tab("Long text", elem_id="tab-long"):
                self._long_tab([model], [voice, *how])
            with gr.Tab("Table", elem_id="tab-table"):
                self._table_tab([model], [voice, *how])
        # Those who come when so many wait are told so.
        blocks.queue(max_size=4 * _AT_ONCE, default_concurrency_limit=_AT_ONCE)
        return blocks

    def _speak_tab(self, first: list, rest: list) -> None:
        text = gr.Textbox(label="Text", lines=3, max_length=MAX_CHARACTERS, elem_id="text")
        button = gr.Button("Speak", variant="primary", elem_id="speak")
        live = gr.HTML(elem_id="live")
        figures = gr.Markdown(elem_id="figures")
        whole = gr.Audio(label="Speech", interactive=False, buttons=["download"], elem_id="speech")
        picture = gr.Image(
            label="Mel spectrogram", interactive=False, buttons=["download", "fullscreen"], elem_id="mel"
        )
        button.click(self.speak, [*first, text, *rest], [live, whole, picture, figures], api_visibility="private")

    def _compare_tab(self, rest: list) -> None:
        names = self.arms.names
        preferred = [name for name in ("euler-32", "epss-7", "dtm-4x1", "student-4") if name in names] or names[:1]
        gr.Markdown("Each way has steps and guidance of its own, and the speed 1; the seed is the one above.")
        text = gr.Textbox(label="Text", lines=2, elem_id="compare-text")
        chosen = gr.CheckboxGroup(names, value=preferred, label="Ways to speak", elem_id="arms")
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        players = [
            gr.Audio(visible=False, interactive=False, buttons=["download"], elem_id=f"arm-{number}")
            for number in range(MAX_ARMS)
        ]
        button.click(self.compare, [chosen, text, *rest], players, concurrency_limit=1, api_visibility="private")

    def _long_tab(self, first: list, rest: list) -> None:
        text = gr.Textbox(
            label="Text; [name] changes the voice",
            lines=10,
            max_length=MAX_CHARACTERS,
            placeholder=" ".join(f"[{name}] What {name} says." for name in sorted(self.desk.voices)[:2]),
            elem_id="long-text",
        )
        button = gr.Button("Speak", variant="primary", elem_id="speak-long")
        live = gr.HTML(elem_id="long-live")
        figures = gr.Markdown(elem_id="long-figures")
        whole = gr.Audio(label="Speech", interactive=False, buttons=["download"], elem_id="long-speech")
        button.click(self.speak_long, [*first, text, *rest], [live, whole, figures], api_visibility="private")

    def _table_tab(self, first: list, rest: list) -> None:
        gr.Markdown(
            "A CSV with a column `text`, and if you like `voice`, `seed` and `speed`; out comes a ZIP of WAVs."
        )
        table = gr.File(label="CSV", file_types=[".csv"], elem_id="table")
        button = gr.Button("Speak", variant="primary", elem_id="speak-table")
        archive = gr.File(label="ZIP", interactive=False, elem_id="archive")
        figures = gr.Textbox(label="Rows", interactive=False, elem_id="table-figures")
        button.click(
            self.speak_table,
            [*first, table, *rest],
            [archive, figures],
            concurrency_limit=2,
            api_visibility="private",
        )


def _settings(steps, guidance, seed, speed) -> Settings:
    return Settings(
        None if steps is None else int(steps), None if guidance is None else float(guidance), int(seed or 0), speed
    )


@contextmanager
def _kept_if_whole(folder: Path) -> Iterator[Path]:
    """
    A folder in the page's own for what will be downloaded. Gradio copies nothing that lies there already: it serves
    the file itself, and removes it when it is an hour old. Of a block that fails, or that nobody goes on with, nothing
    stays.
    """
    aside = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _joined(waves: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate([*waves])


def _to_int16(audio: np.ndarray) -> np.ndarray:
    return (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def _picture(mel: np.ndarray, rate: int, folder: Path) -> Image.Image:
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        path = Path(aside) / "mel.png"
        save_mel_picture(mel, path, sampling_rate=rate)
        with Image.open(path) as picture:
            return picture.convert("RGB")


__all__ = ["Page"]
