"""Text to the token ids of F5-TTS: characters, and pinyin syllables for Chinese. No torch in here."""

import io
import os
import re
from collections.abc import Iterable

VOCAB_FILE_NAME = "vocab.txt"
# One a line, beside the vocabulary: of a backbone that was trained on a few words.
WORDS_FILE_NAME = "words.txt"

_WORD = re.compile(r"\w+(?:'\w+)*")
# That of F5-TTS has 2545 lines and 14 kB.
_MAX_VOCABULARY_BYTES = 4 * 2**20
_TRANSLATION = str.maketrans({";": ",", "“": '"', "”": '"', "‘": "'", "’": "'"})

# From the CJK radicals up, a character may be joined to words or read as pinyin, and f5_tts's own code decides. Emoji
# (U+1xxxx) are single tokens, like everything below U+2E80.
_EAST_ASIAN = re.compile("[\u2e80-\uffff\U00020000-\U0010ffff]")

# What jieba (the word segmentation of f5_tts, `rjieba` 0.2.2) makes of text without East Asian characters: the ASCII
# words of its dictionary wherever they occur, even inside a longer word; between those, words and numbers with their
# inner `.`, `_` and `-`; runs of other word characters; single characters.
_DICTIONARY_WORDS = re.compile(r"(AT&T|[Cc]#|[Cc]\+\+)")
_SEGMENTS = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*%?|[+#&._%-]+|\r\n|.", re.DOTALL)


def _split_without_pinyin(text: str) -> list[str]:
    """Characters of `text`, with a space before each piece of two or more that follows no space, colon or quote."""
    tokens: list[str] = []
    for index, part in enumerate(_DICTIONARY_WORDS.split(text)):
        for segment in [part] if index % 2 else _SEGMENTS.findall(part):
            if len(segment) > 1 and tokens and tokens[-1] not in " :'\"":
                tokens.append(" ")
            tokens.extend(segment)
    return tokens


class Vocabulary:
    """
    Splits text into the tokens that an F5-TTS backbone was trained on, and knows their ids.

    A token is a character, or a pinyin syllable with its tone where the text is Chinese. Ids are those of
    `f5_tts.model.utils` for the same text and `vocab.txt`. Text without East Asian characters is tokenized here,
    without the Chinese packages (`rjieba`, `pypinyin`); other text is handed to `f5_tts`.

    Args:
        vocab_file (`str` or `os.PathLike`):
            A `vocab.txt`, UTF-8: one token per line, the line number is the id, the first line is a space. Where no
            token is in upper case, text is read in lower case.
        words (`Iterable[str]`, *optional*): The only words that the backbone was trained on, where they are few.
    """

    padding_value = -1
    unknown_id = 0

    def __init__(self, vocab_file: str | os.PathLike, words: Iterable[str] | None = None):
        with open(vocab_file, "rb") as file:
            content = file.read(_MAX_VOCABULARY_BYTES + 1)
        try:
            if len(content) > _MAX_VOCABULARY_BYTES:
                raise ValueError("larger than 4 MiB")
            # As files are read in text mode: any end of line is one, and nothing else is.
            lines = io.StringIO(content.decode("utf-8"), newline=None)
        except ValueError as error:
            raise ValueError(
                f"`vocab_file` {os.fspath(vocab_file)!r} must be text in UTF-8, but is not ({error})."
            ) from error
        self._tokens = [line.rstrip("\n") for line in lines]
        if not self._tokens or self._tokens[0] != " ":
            raise ValueError(
                f"`vocab_file` {os.fspath(vocab_file)!r} must hold one token per line and a space in its first line "
                f"(id 0 stands for unknown characters too), but its first line is {''.join(self._tokens[:1])!r}."
            )
        # A vocabulary without capitals was trained on text in lower case; f5_tts's own has both.
        self._lower = not any(token.isupper() for token in self._tokens)
        # As in f5_tts, the last of several equal lines gives the id, and `vocab_size` counts distinct tokens.
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self._known: dict[str, bool] = {}
        self.words = None if words is None else frozenset(word.casefold() for word in words)

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens: `text_num_embeds` of the backbone."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return dict(self._ids)

    def tokenize(self, text: str) -> list[str]:
        """
        Split `text` into tokens, known to the vocabulary or not.

        Raises:
            TypeError: if `text` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a string, but got {type(text).__name__}.")
        text = self.straighten(text)
        if self._lower:
            text = text.lower()
        if not _EAST_ASIAN.search(text):
            return _split_without_pinyin(text)

        from dtm_hf.f5_import import import_f5

        return import_f5("f5_tts.model.utils").convert_char_to_pinyin([text])[0]

    @staticmethod
    def straighten(text: str) -> str:
        """`text` with straight quotes, and commas for semicolons: what F5-TTS reads in their place."""
        return text.translate(_TRANSLATION)

    def knows(self, character: str) -> bool:
        """Whether the vocabulary has a token for a single character, or for its reading."""
        if character not in self._known:
            # East Asian characters are read one by one here, which costs; a text has many of each.
            self._known[character] = not self.unknown_characters(character)
        return self._known[character]

    def unknown_characters(self, text: str) -> list[str]:
        """
        The distinct tokens of `text` that the vocabulary lacks, in order of appearance. They get id 0, that of the
        blank; white space of any kind is a blank by right, and not among them.
        """
        tokens = dict.fromkeys(self.tokenize(text))
        return [token for token in tokens if token not in self._ids and not token.isspace()]

    def unknown_words(self, text: str) -> list[str]:
        """The distinct words and numbers of `text` that the backbone never heard, if it is known what it heard."""
        if self.words is None:
            return []
        return [word for word in dict.fromkeys(_WORD.findall(text)) if word.casefold() not in self.words]

    def ids(self, text: str) -> list[int]:
        """Ids of the tokens of `text`. Unknown tokens have id 0."""
        return [self._ids.get(token, self.unknown_id) for token in self.tokenize(text)]
