"""The web page of `dtm-hf app`."""

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from .console import say_note, stderr
from .models import load_ears
from .serving import ServiceModel, listen, needs

if TYPE_CHECKING:
    import numpy as np

    from dtm_hf.app.arms import Arms
    from dtm_hf.runtime.contract import RowSpeaker


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with exit code 143: by itself it would leave behind what was uploaded."""

    def end(*_signal) -> None:
        # A second one would end what clears up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_models(service: ServiceModel, chosen: str) -> "tuple[dict[str, RowSpeaker], int, Arms | None]":
    """
    What speaks, by the names of the page's list: a pipeline, and a student that is named or lies beside it. With how
    many rows each should be given at once, and the ways to sample that a port has none of.

    Raises:
        ValueError, OSError: for what cannot be loaded.
    """
    speaker, rows = replace(service, student=None).open(chosen)
    if service.runtime != "torch":
        return {service.title: speaker}, rows, None
    from dtm_hf.app.arms import Arms, own_pipeline
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    hub = {"local_files_only": service.local_files_only}
    place = {"revision": service.revision, "subfolder": "student"}
    if service.student is None and not _holds_student(chosen, **hub, **place):
        return {service.title: speaker}, rows, Arms(speaker.pipeline)
    # All but the backbone is shared.
    student = own_pipeline(speaker.pipeline)
    try:
        if service.student is None:
            student.load_student(chosen, **hub, **place)
        else:
            student.load_student(service.student, **hub)
    except ValueError as error:
        which = "the student beside it" if service.student is None else f"`--student` {service.student!r}"
        raise ValueError(f"{which}: {error}") from error
    speakers = {service.title: speaker, f"{service.title}, student": PipelineSpeaker(student)}
    if service.student is not None:
        # What was asked for comes first.
        speakers = dict(reversed(speakers.items()))
    return speakers, rows, Arms(speaker.pipeline, student)


def _holds_student(chosen: str, **hub) -> bool:
    from transformers.utils import cached_file

    try:
        return cached_file(chosen, "config.json", _raise_exceptions_for_missing_entries=False, **hub) is not None
    except OSError:
        # The pipeline was loaded without asking the Hub, which cannot be asked now.
        return False


def open_ears(recognizer: str | None, local_files_only: bool) -> "Callable[[np.ndarray, int], str] | None":
    """
    Who writes what is said in a recording: nobody for `none`; where `--recognizer` is not given, a small Whisper if
    faster-whisper is installed, loaded with the first recording.

    Raises:
        ArgumentError, ImportError: as of [`load_ears`], for one that is named.
    """
    if recognizer is not None:
        ears = None if recognizer == "none" else load_ears(recognizer)
        return None if ears is None else ears.transcribe
    if importlib.util.find_spec("faster_whisper") is None:
        return None
    from dtm_hf.app.ears import MODEL, SIZE, LateEars

    stderr.print(
        f"What is said in a recording is written by whisper:{MODEL}, which is loaded with the first one"
        + ("" if local_files_only else f", and downloaded then if it is not here ({SIZE})")
        + "; `--recognizer none` turns it off.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return LateEars(local_files_only).transcribe


def run_page(service: ServiceModel, *, recognizer: str | None, host: str, port: int) -> None:
    """Listen, load, and show the page until SIGINT or SIGTERM. Bad arguments are refused before anything is loaded."""
    needs("app", "gradio", "fastapi", "uvicorn")
    chosen = service.chosen
    voices = service.recordings(chosen)
    with ExitStack() as stack:
        opened = stack.enter_context(closing(listen(host, port)))
        from dtm_hf.app.site import create_site, page_folder

        # uvicorn ends what was asked for, and then sends the signal again.
        stack.enter_context(_unwound_by_sigterm())
        folder = stack.enter_context(page_folder())
        hear = open_ears(recognizer, service.local_files_only)
        from dtm_hf.app.desk import Desk
        from dtm_hf.runtime import Batcher
        from dtm_hf.serving.listening import host_names, is_loopback, make_server, url_of

        speakers, rows, arms = open_models(service, chosen)
        models = {name: stack.enter_context(Batcher(each, max_rows=rows)) for name, each in speakers.items()}
        if not is_loopback(opened):
            say_note("anybody who reaches this page may speak with it, and upload recordings.")
        site = create_site(
            Desk(models, voices, hear),
            arms,
            folder,
            service.title,
            host_names(opened),
        )
        stderr.print(
            f"The page is at {url_of(opened)}. Ctrl-C ends it.", markup=False, highlight=False, soft_wrap=True
        )
        make_server(site).run(sockets=[opened])
