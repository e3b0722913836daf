"""The command ``python -m dtm_hf.training.speakers``: embeds the voices of a data set."""

from dtm_hf.training.mels.voices import app

if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.training.speakers")
