"""What a system makes of rows: the one thing that it brings to the data."""

from abc import ABC, abstractmethod
from typing import Any

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.sources import Source


class Maker(ABC):
    """Samples of rows, and batches of samples. It is sent to the processes that read, with all that it holds."""

    @abstractmethod
    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        """
        The column of each role that is read of a source, `{"audio": "mp3", "text": "json.text"}`; none of a role that
        is not. The role whose column names files, where columns do, comes first.
        """

    @abstractmethod
    def make(self, source: Source, row: Row) -> Any:
        """
        A sample.

        Raises:
            WrongLength: if the row is dropped.
            BadRow: or anything else, if it is bad.
        """

    @abstractmethod
    def collate(self, samples: list) -> dict[str, Any]:
        """The batch of the samples."""

    def size(self, sample: Any) -> int:
        """What the sample takes of the budget of a batch, whose samples are padded to the largest of them."""
        return 1

    def length(self, sample: Any) -> int:
        """What samples are sorted by, so that those of a batch are alike."""
        return self.size(sample)

    def group(self, source: Source, row: Row) -> str | None:
        """Of which samples may be joined, the speaker say; none of a row that stays alone."""
        return None

    def join(self, first: Any, second: Any) -> Any:
        """Two samples of a group as one."""
        raise NotImplementedError(f"{type(self).__name__} joins no samples.")
