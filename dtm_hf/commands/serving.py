"""A model opened to speak for many, and the server of `dtm-hf serve`."""

import importlib.util
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dtm_hf.frontend.audio import read_speech
from dtm_hf.frontend.voices import Recording, voices_of_folder
from dtm_hf.reading import show

from .console import ArgumentError, say_note, stderr
from .models import choose_model, load_pipeline, model_voices
from .port_speaking import choose_port, open_port

if TYPE_CHECKING:
    import socket

    from dtm_hf.runtime.contract import RowSpeaker

_GPU_BATCH = 16


@dataclass(frozen=True)
class ServiceModel:
    """What speaks; the fields are the options of `dtm-hf serve`."""

    model: str | None = None
    student: str | None = None
    voices: Path | None = None
    batch_size: int | None = None
    runtime: str = "torch"
    dtype: str = "float32"
    device: str | None = None
    revision: str | None = None
    local_files_only: bool = False

    @property
    def title(self) -> str:
        """What clients call it."""
        return Path(self.chosen).name if Path(self.chosen).is_dir() else self.chosen

    @property
    def chosen(self) -> str:
        """
        Folder or Hub name.

        Raises:
            ArgumentError: for neither, and for options that do not go with a runtime of ports.
        """
        if self.runtime == "torch":
            return choose_model(self.model)
        for name, given in (("--student", self.student), ("--device", self.device)):
            if given:
                raise ArgumentError(f"`{name}` is for `--runtime torch`, and `--runtime {self.runtime}` has none.")
        if self.dtype != "float32":
            raise ArgumentError(f"`--dtype` {self.dtype} is for `--runtime torch`.")
        return choose_port(self.model, self.runtime)

    def recordings(self, chosen: str) -> dict[str, Recording]:
        """
        Its voices by name: those packaged with it, and those of the folder, which come before them.

        Raises:
            ArgumentError: if there are none, the folder holds none, or one is no recording.
        """
        voices = model_voices(chosen, self.revision, self.local_files_only)
        if self.voices is not None:
            try:
                voices |= voices_of_folder(self.voices)
            except (ValueError, OSError) as error:
                raise ArgumentError(str(error).replace("`voices`", "`--voices`")) from error
        if not voices:
            raise ArgumentError(f"`--voices` is needed: {chosen!r} packages no recording.")
        for name, voice in voices.items():
            try:
                with warnings.catch_warnings():
                    # It is read again with its text, and what there is to say is said then.
                    warnings.simplefilter("ignore")
                    read_speech(voice.audio)
            except (ValueError, OSError) as error:
                raise ArgumentError(f"`--voices`: {show(name)} cannot be used: {error}") from error
        return voices

    def open(self, chosen: str) -> "tuple[RowSpeaker, int]":
        """The model, loaded, and how many rows it should be given at once."""
        if self.runtime != "torch":
            speaker = open_port(chosen, self.runtime, self.revision, self.local_files_only)
            return speaker, self.batch_size or 1
        pipeline = load_pipeline(
            chosen,
            dtype=self.dtype,
            device=self.device,
            revision=self.revision,
            local_files_only=self.local_files_only,
            student=self.student,
        )
        from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

        return PipelineSpeaker(pipeline), self.batch_size or (1 if pipeline.device.type == "cpu" else _GPU_BATCH)


def needs(extra: str, *modules: str) -> None:
    """
    Raises:
        ImportError: naming the extra that brings the modules, before anything else is done.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise ImportError(f"{missing[0]} is missing: `pip install dtm-hf[{extra}]`.")


def run_server(
    service: ServiceModel,
    *,
    host: str,
    port: int,
    token: str | None,
    max_characters: int,
    max_steps: int,
    max_requests: int,
    timeout_s: float,
) -> None:
    """Listen, load, and serve until SIGINT or SIGTERM. Bad arguments are refused before anything is loaded."""
    needs("serve", "fastapi", "uvicorn")
    if token is not None and not (token.strip() and token.isprintable()):
        raise ArgumentError("`--token` must be a word, and not empty.")
    chosen = service.chosen
    voices = service.recordings(chosen)
    with closing(listen(host, port)) as opened:
        from dtm_hf.runtime import Batcher
        from dtm_hf.serving.limits import Limits
        from dtm_hf.serving.listening import host_names, is_loopback, make_server, url_of
        from dtm_hf.serving.server import create_app

        speaker, rows = service.open(chosen)
        if token is None and not is_loopback(opened):
            say_note("anybody who reaches this server may speak with it; `--token` asks for a word.")
        try:
            app = create_app(
                Batcher(speaker, max_rows=rows),
                voices,
                service.title,
                limits=Limits(max_characters, max_steps, max_requests, timeout_s),
                token=token,
                hosts=host_names(opened),
            )
        except ValueError as error:
            raise ArgumentError(str(error).replace("`voices`", "`--voices`")) from error
        stderr.print(
            f"Serving {chosen} at {url_of(opened)}/v1, voices {', '.join(sorted(voices))}. Ctrl-C ends it.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        make_server(app).run(sockets=[opened])


def listen(host: str, port: int) -> "socket.socket":
    """A bound socket; a place that cannot be had is refused by its option."""
    from dtm_hf.serving.listening import open_socket

    try:
        return open_socket(host, port)
    except OSError as error:
        raise ArgumentError(str(error).replace("`host`", "`--host`").replace("`port`", "`--port`")) from error
