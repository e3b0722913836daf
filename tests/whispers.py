"""A Whisper that is none, for the page: the real one would have to be downloaded."""


def fake_whisper(monkeypatch, here, transcribe=lambda samples, rate: f"heard {len(samples) / rate:.0f} s"):
    """
    Takes the place of the page's recogniser.

    Args:
        here (`bool`): Whether it is loaded without a download.
        transcribe (`Callable`): What it hears.

    Returns:
        Model, language and `local_files_only` of each time that it was asked for.
    """
    asked = []

    class Whisper:
        def __init__(self, model, language="en", local_files_only=False):
            asked.append((model, language, local_files_only))
            if local_files_only and not here:
                raise ValueError("there is no such model here")

        def transcribe(self, samples, rate):
            return transcribe(samples, rate)

    monkeypatch.setattr("dtm_hf.app.ears.WhisperRecognizer", Whisper)
    return asked
