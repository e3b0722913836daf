"""The page as an application that uvicorn serves, with what it may read and how much it takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dtm_hf.files import temporary_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dtm_hf.app.arms import Arms
    from dtm_hf.app.desk import Desk


@contextmanager
def page_folder() -> Iterator[Path]:
    """
    A temporary folder that holds all that the page reads and writes, and goes with it, or, where the page was killed,
    when the next one starts. Gradio asks for its name when it is imported: enter before.
    """
    with temporary_folder("dtm-hf-app") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def create_site(
    desk: "Desk", arms: "Arms | None", folder: Path, title: str, hosts: list[str] | None = None
) -> "FastAPI":
    """
    The application.

    Args:
        desk ([`Desk`]), arms ([`Arms`], *optional*), folder (`Path`): as of [`~dtm_hf.app.page.Page`].
        title (`str`): of the page.
        hosts (`list[str]`, *optional*): names that it is called by; `["*"]` for any, by default those of loopback.
    """
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from dtm_hf.app.live import Streams, script, serve_streams
    from dtm_hf.app.page import Page
    from dtm_hf.app.uploads import MAX_UPLOAD_BYTES, Bounded
    from dtm_hf.serving.listening import LOOPBACK_NAMES

    app, streams = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Streams()
    app.add_middleware(Bounded, folder=folder)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or LOOPBACK_NAMES)
    serve_streams(app, streams)
    # The default theme asks for fonts of another host.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gradio.mount_gradio_app(
        app,
        Page(desk, streams, arms, folder).build(title),
        path="/",
        theme=theme,
        head=script(),
        # Errors that are to be seen are told as such.
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
    )
