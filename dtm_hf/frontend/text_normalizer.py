"""What is written in digits, signs and capitals to what is said, for models that were trained on words alone."""

import os

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import PushToHubMixin

from dtm_hf.frontend.written_words import LANGUAGES, WrittenWords
from dtm_hf.validation import CheckedConfigMixin, naming


class TextNormalizer(CheckedConfigMixin, ConfigMixin, PushToHubMixin):
    """
    Says numbers, times, dates, amounts and units in words, before the tokenizer, with the grammars of
    [WeTextProcessing](https://github.com/wenet-e2e/WeTextProcessing) (`wetext`, the extra `dtm-hf[normalize]`).

    F5-TTS normalises nothing and has been trained on text as it is written: a pipeline of its official weights goes
    without this component unless it is given one. Where the library is not installed, a text passes as it is, with a
    warning if it holds digits.

    Args:
        language (`str`, defaults to `"en"`): `"en"`, `"zh"` or `"ja"`. In English, telephone numbers are read digit by
            digit, and words in capitals of five letters and more, or a text that is all capitals, in lower case.

    Raises:
        ValueError: for another language.
    """

    config_name = "normalizer_config.json"

    @register_to_config
    def __init__(self, language: str = "en"):
        if language not in LANGUAGES:
            raise ValueError(f"`language` must be one of {LANGUAGES}, but got {language!r}.")
        self._words = WrittenWords(language)

    def __call__(self, text: str) -> str:
        """`text` as it is said."""
        return self._words(text)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `normalizer_config.json` into `save_directory`; arguments as of a scheduler of diffusers."""
        self.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs
    ) -> "TextNormalizer":
        """
        Load from a folder or a Hub repository that holds `normalizer_config.json`; arguments as of a scheduler of
        diffusers.

        Raises:
            OSError: if there is no such file.
        """
        with naming(os.path.join(pretrained_model_name_or_path, subfolder or "").rstrip("/")):
            config, kwargs = cls.load_config(
                pretrained_model_name_or_path, subfolder=subfolder, return_unused_kwargs=True, **kwargs
            )
            return cls.from_config(config, **kwargs)


def describe_normalizer(normalizer: TextNormalizer | None) -> str:
    """What becomes of numbers in a pipeline with this `text_normalizer`, in words."""
    if normalizer is None:
        return "read as they are written, as in F5-TTS"
    # A user's own may be any callable.
    language = getattr(getattr(normalizer, "config", None), "language", None)
    return f"said in words by {type(normalizer).__name__}" + (f", language {language}" if language else "")
