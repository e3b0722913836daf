"""Texts one at a time, in the voices that are packaged with a model."""

from functools import cached_property

from dtm_hf.commands.models import choose_model, load_pipeline, model_voices
from dtm_hf.synthesize.plan import PlannedRow
from dtm_hf.synthesize.sources import SourceVoice
from dtm_hf.synthesize.speaking import SpokenRow, speak_rows


class ModelVoices:
    """
    A pipeline that says what a run of `dtm_hf.synthesize` says, with `--max-batch-frames 1` to the bit.

    Args:
        model (`str`, *optional*): folder or Hub name of the pipeline; the embedded one by default.

    Raises:
        ArgumentError: if there is no such folder, or it holds no pipeline.
    """

    def __init__(self, model: str | None = None):
        self.model = choose_model(model)
        packaged = model_voices(self.model)
        self.voices = {name: SourceVoice(str(voice.audio), voice.text) for name, voice in packaged.items()}

    @cached_property
    def speaker(self):
        """Who speaks; loaded when it is first asked for."""
        from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

        return PipelineSpeaker(load_pipeline(self.model))

    def speak(self, text: str, voice: str, seed: int) -> SpokenRow:
        """
        Samples `(T,)` at the speaker's rate, or why there are none.

        Args:
            text (`str`): any length.
            voice (`str`): one of `voices`.
            seed (`int`): decides the noise.
        """
        (spoken,) = speak_rows(self.speaker, [PlannedRow(0, text, voice, seed)], self.voices, {}, max_batch_frames=1)
        return spoken


__all__ = ["ModelVoices"]
