"""The engines by name."""

from dtm_hf.training.corpus.engine import Engine
from dtm_hf.training.corpus.kokoro import Kokoro
from dtm_hf.training.corpus.pipeline import Pipeline
from dtm_hf.training.corpus.programs import EspeakNg, Flite

ENGINES: dict[str, type[Engine]] = {"flite": Flite, "espeak-ng": EspeakNg, "kokoro": Kokoro, "pipeline": Pipeline}


def load_engine(name: str, model: str | None = None, voices: tuple[str, ...] = ()) -> Engine:
    """
    An engine by its name in [`ENGINES`].

    Args:
        name (`str`): "flite", "espeak-ng", "kokoro" or "pipeline".
        model (`str`, *optional*): Folder or Hub name of the weights, for an engine that has some.
        voices (`tuple[str, ...]`): The corpus's voices, for an engine that blends them.

    Raises:
        ValueError: if there is no such engine, or `model` is given for one without weights.
    """
    if name not in ENGINES:
        raise ValueError(f"`engine` must be one of {tuple(ENGINES)}, but got {name!r}")
    return ENGINES[name](model, voices)
