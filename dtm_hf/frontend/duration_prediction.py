"""How long a text takes to say, from its characters."""

import math
import os
from collections.abc import Callable

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import PushToHubMixin

from dtm_hf.frontend.spoken_seconds import spoken_seconds
from dtm_hf.validation import CheckedConfigMixin, Seconds, naming


class DurationPredictor(CheckedConfigMixin, ConfigMixin, PushToHubMixin):
    """
    Seconds of speech as a sum over words and characters.

    F5-TTS takes a text to last as many times longer than the prompt's as it has more bytes
    (`f5_tts/infer/utils_infer.py`). In a few words that is rough: "six" and "two" take unlike times. A pipeline with
    this component counts each character with a weight of its own in the place of bytes, and is as proportional to the
    prompt as before. `python -m dtm_hf.training.durations` fits one; it belongs to the language of its recordings.

    Args:
        base_seconds (`float`): What any text takes, above 0.
        word_seconds (`float`): What each word adds.
        character_seconds (`dict[str, float]`): What each character adds, by the character as `str.casefold` gives it.
        other_byte_seconds (`float`): What each byte in UTF-8 adds of a character that is not among them, white space
            excepted.
        training_data (`str`, *optional*): What it was fitted on.

    Raises:
        TypeError: if `character_seconds` is not a dictionary.
        ValueError: for a figure that is negative or not finite, a `base_seconds` of 0, or a key that no text would be
            looked up by.
    """

    config_name = "duration_config.json"

    @register_to_config
    def __init__(
        self,
        base_seconds: Seconds,
        word_seconds: Seconds,
        character_seconds: dict[str, Seconds],
        other_byte_seconds: Seconds,
        training_data: str | None = None,
    ):
        if not isinstance(character_seconds, dict):
            raise TypeError(
                f"`character_seconds` must be a dictionary from characters to seconds, but got {character_seconds!r}."
            )
        for key in character_seconds:
            if len(key) != 1 or key != key.casefold() or key.isspace():
                raise ValueError(
                    f"`character_seconds` must have single characters as `str.casefold` gives them, and no white "
                    f"space, but got {key!r}."
                )
        figures = {
            "base_seconds": base_seconds,
            "word_seconds": word_seconds,
            "other_byte_seconds": other_byte_seconds,
            **{f"character_seconds[{character!r}]": value for character, value in character_seconds.items()},
        }
        for name, value in figures.items():
            if isinstance(value, bool) or not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be a number of seconds, 0 or more, but got {value!r}.")
        # Pipelines divide by what a prompt's text takes.
        if base_seconds == 0:
            raise ValueError("`base_seconds` must be above 0, but got 0.")

    def __call__(self, text: str) -> float:
        """Seconds that `text` takes at the average pace of the recordings that the predictor was fitted on."""
        return spoken_seconds(text, self.config)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `duration_config.json` into `save_directory`; arguments as of a scheduler of diffusers."""
        self.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs,
    ) -> "DurationPredictor":
        """
        Load from a folder or a Hub repository that holds `duration_config.json`; arguments as of a scheduler of
        diffusers, those of the constructor among them.

        Raises:
            OSError: if there is no such file.
        """
        with naming(os.path.join(pretrained_model_name_or_path, subfolder or "").rstrip("/")):
            config, kwargs = cls.load_config(
                pretrained_model_name_or_path, subfolder=subfolder, return_unused_kwargs=True, **kwargs
            )
            return cls.from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)


def describe_lengths(predictor: Callable[[str], float] | None) -> str:
    """Where a pipeline with this `duration_predictor` has the length of its speech from, in words."""
    if predictor is None:
        return "in proportion to the prompt, by bytes of text as in F5-TTS"
    # A user's own may be any callable.
    data = getattr(getattr(predictor, "config", None), "training_data", None)
    # One that draws a length for each token is no rule of proportion.
    how = "token by token in the prompt's pace" if hasattr(predictor, "sample") else "in proportion to the prompt"
    return f"{how}, by {type(predictor).__name__}" + (f", fitted on {data}" if data else "")
