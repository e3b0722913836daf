"""Entry point of ``python -m dtm_hf.training.corpus``."""

from dtm_hf.training.corpus.build import app

# Worker processes import this file again under another name: the guard keeps them from starting a second build.
if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.training.corpus")
