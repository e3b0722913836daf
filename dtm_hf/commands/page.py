"""The web page of `dtm-hf app`."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from .console import say_note, stderr
from .models import load_ears
from .serving import ServiceModel, listen, needs


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
        ears = load_ears(recognizer)
        from dtm_hf.app.arms import Arms
        from dtm_hf.app.desk import Desk
        from dtm_hf.runtime import Batcher
        from dtm_hf.serving.listening import is_loopback, make_server, url_of

        speaker, rows = service.open(chosen)
        speakers, arms = {service.title: speaker}, None
        if service.runtime == "torch":
            # A student that lies beside its pipeline is there to be compared with.
            beside = Path(chosen) / "student"
            student = None
            if service.student is None and beside.is_dir():
                student, _ = replace(service, student=str(beside)).open(chosen)
                speakers[f"{service.title}, student"] = student

            arms = None if service.student is not None else Arms(speaker.pipeline, student and student.pipeline)
        models = {name: stack.enter_context(Batcher(each, max_rows=rows)) for name, each in speakers.items()}
        if not is_loopback(opened):
            say_note("anybody who reaches this page may speak with it, and upload recordings.")
        site = create_site(
            Desk(models, voices, ears and ears.transcribe),
            arms,
            folder,
            service.title,
            None if is_loopback(opened) else ["*"],
        )
        stderr.print(
            f"The page is at {url_of(opened)}. Ctrl-C ends it.", markup=False, highlight=False, soft_wrap=True
        )
        make_server(site).run(sockets=[opened])
