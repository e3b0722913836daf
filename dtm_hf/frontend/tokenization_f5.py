"""Tokenizer of F5-TTS: characters, and pinyin syllables for Chinese."""

import os

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils.hub import PushToHubMixin, cached_file

from dtm_hf.files import written_aside
from dtm_hf.frontend.vocabulary import VOCAB_FILE_NAME, WORDS_FILE_NAME, Vocabulary


class F5Tokenizer(Vocabulary, PushToHubMixin):
    """
    Turns text into the token ids that an F5-TTS backbone was trained on.

    Not a `transformers.PreTrainedTokenizer`, which cannot give padding an id outside the vocabulary (-1 here), nor one
    id to both the space and every unknown character (0 here).

    Args:
        vocab_file (`str` or `os.PathLike`):
            A `vocab.txt`, UTF-8: one token per line, the line number is the id, the first line is a space. Where no
            token is in upper case, text is read in lower case.
        words (`Iterable[str]`, *optional*): The only words that the backbone was trained on, where they are few; saved
            as `words.txt`.

    Example:

    ```python
    >>> tokenizer = F5Tokenizer.from_pretrained("org/dtm-f5", subfolder="tokenizer")
    >>> tokenizer(["Hello there.", "Hi."]).shape
    torch.Size([2, 12])
    ```
    """

    def __call__(self, text: str | list[str], return_tensors: str = "pt") -> torch.LongTensor:
        """
        Tokenize one text or a batch.

        Args:
            text (`str` or `list[str]`):
                What to tokenize.
            return_tensors (`str`, defaults to `"pt"`):
                Only `"pt"`, a torch tensor.

        Returns:
            `torch.LongTensor` of shape `[B, Nt]`: ids, padded with -1 on the right. Unknown tokens have id 0.

        Raises:
            ValueError: if the batch is empty, or `return_tensors` is not `"pt"`.
        """
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` must be 'pt', but got {return_tensors!r}.")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("`text` must hold at least one string, but got an empty list.")
        rows = [torch.tensor(self.ids(item), dtype=torch.long) for item in texts]
        return pad_sequence(rows, batch_first=True, padding_value=self.padding_value)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """
        Write `vocab.txt` into `save_directory`, made if absent, and `words.txt` if there are any. Other arguments of
        pipelines are ignored.
        """
        os.makedirs(save_directory, exist_ok=True)
        files = {VOCAB_FILE_NAME: self._tokens}
        if self.words is not None:
            files[WORDS_FILE_NAME] = sorted(self.words)
        for name, lines in files.items():
            with written_aside(os.path.join(save_directory, name)) as aside:
                with open(aside, "w", encoding="utf-8", newline="\n") as file:
                    file.writelines(line + "\n" for line in lines)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **kwargs,
    ) -> "F5Tokenizer":
        """
        Load from a folder or a Hub repository that holds `vocab.txt`.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Folder, or Hub id such as `"org/dtm-f5"`.
            subfolder, revision, cache_dir, token, local_files_only, force_download:
                As in every `from_pretrained`. Other arguments, which pipelines pass to all components, are ignored.

        Raises:
            OSError: if there is no such folder or repository, or no `vocab.txt` in it.
        """
        hub = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        vocabulary = cached_file(pretrained_model_name_or_path, VOCAB_FILE_NAME, **hub)
        # It lies beside the other, or there is none.
        words = cached_file(
            pretrained_model_name_or_path,
            WORDS_FILE_NAME,
            **hub,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if words is None:
            return cls(vocabulary)
        with open(words, encoding="utf-8") as file:
            return cls(vocabulary, file.read().split())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"
