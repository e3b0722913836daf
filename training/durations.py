"""The command ``python -m dtm_hf.training.durations``: fits how long a text takes to say."""

from dtm_hf.training.speech.durations import app

if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.training.durations")
