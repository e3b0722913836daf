"""How long a text takes to say, from its characters."""

import math
import os

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import PushToHubMixin


class DurationPredictor(ConfigMixin, PushToHubMixin):
    """
    Seconds of speech as a sum over words and characters.

    F5-TTS takes a text to last as many times longer than the prompt's as it has more bytes
    (`f5_tts/infer/utils_infer.py`). In a few words that is rough: "six" and "through" take about as long. A pipeline
    with this component counts each character with a weight of its own in the place of bytes, and is as proportional to
    the prompt as before. `python -m dtm_hf.training.durations` fits one; it belongs to the language that it was fitted
    on.

    Args:
        base_seconds (`float`): What any text takes.
        word_seconds (`float`): What each word adds.
        character_seconds (`dict[str, float]`): What each character adds, by the character without its case.
        other_character_seconds (`float`): What a character adds that is not among them, white space excepted.
        training_data (`str`, *optional*): What it was fitted on.

    Raises:
        ValueError: if a figure is negative or not finite, or all that a character may add are 0.
    """

    config_name = "duration_config.json"

    @register_to_config
    def __init__(
        self,
        base_seconds: float,
        word_seconds: float,
        character_seconds: dict[str, float],
        other_character_seconds: float,
        training_data: str | None = None,
    ):
        figures = {
            "base_seconds": base_seconds,
            "word_seconds": word_seconds,
            "other_character_seconds": other_character_seconds,
            **{f"character_seconds[{character!r}]": value for character, value in character_seconds.items()},
        }
        for name, value in figures.items():
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be a number of seconds, 0 or more, but got {value!r}.")
        # Nothing else keeps every prediction above 0.
        if other_character_seconds == 0:
            raise ValueError("`other_character_seconds` must be above 0, but got 0.")

    def __call__(self, text: str) -> float:
        """Seconds that `text` takes at the average pace of the recordings that the predictor was fitted on."""
        config, text = self.config, text.casefold()
        characters = "".join(text.split())
        seconds = (config.character_seconds.get(c, config.other_character_seconds) for c in characters)
        return config.base_seconds + config.word_seconds * len(text.split()) + sum(seconds)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `duration_config.json` into `save_directory`; arguments as of a scheduler of diffusers."""
        self.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "DurationPredictor":
        """
        Load from a folder or a Hub repository that holds `duration_config.json`.

        Args:
            kwargs: `subfolder`, `revision`, `cache_dir`, `token`, `local_files_only` as of a scheduler of diffusers.

        Raises:
            OSError: if there is no such file.
        """
        config, kwargs = cls.load_config(pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs)
        return cls.from_config(config)
