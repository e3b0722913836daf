"""
Prompts, and images where a metric asks for them, in batches of a fixed size that can be taken up again anywhere.

The sources are those of speech, with an image in the place of the audio: parquet shards, WebDatasets, folders with a
table of texts (`imagefolder`), or any of these on the Hub.
"""

import dataclasses
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import BatchLoader, open_each
from dtm_hf.training.data.resumable import ResumableBatches, RowCollector
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import NoSuchSplit, Source, local_format, open_source
from dtm_hf.training.data.stream import SourceStream


@dataclass
class ImageText:
    """One row: a prompt, and the picture of shape `(3, R, R)` in [-1, 1] if images are read."""

    prompt: str
    pixels: torch.Tensor | None = None


class ImageTextSource(Source):
    """A [`Source`] whose rows have a prompt, and an image where `audio_column` names one; it may be empty."""

    def prompt(self, row: Row) -> str:
        """
        Raises:
            BadRow: if there is none.
        """
        text = self.text(row)
        text = (" ".join(text) if isinstance(text, list) else text).strip()
        if not text:
            raise BadRow("no prompt")
        return text

    def image(self, row: Row) -> bytes:
        """
        The encoded image of a row.

        Raises:
            BadRow: if there is none, or the file it names is absent or outside the folder.
        """
        try:
            return self.audio(row)
        except BadRow as error:
            raise BadRow(str(error).replace("audio", "image")) from error

    @property
    def _columns(self) -> tuple[str, str, None]:
        # A table of files takes the first column for their paths.
        file_column = self.arguments.audio_column or ("image" if self.format == "imagefolder" else "")
        return file_column, self.arguments.text_column, None


class ImageTextReader:
    """
    Makes an [`ImageText`] of a row.

    Args:
        resolution (`int`, *optional*): height and width of the pictures in pixels; images are not read without.
    """

    def __init__(self, resolution: int | None = None):
        self.resolution = resolution

    def __call__(self, source: ImageTextSource, row: Row) -> ImageText:
        """
        Raises:
            BadRow: if there is no prompt, or no image that can be decoded where images are read.
        """
        prompt = source.prompt(row)
        if self.resolution is None:
            return ImageText(prompt)
        return ImageText(prompt, decode_image(source.image(row), self.resolution))


def decode_image(content: bytes, resolution: int) -> torch.Tensor:
    """
    An encoded image as `(3, resolution, resolution)` in [-1, 1]: turned as its EXIF says, on white where it is
    transparent, its shorter side scaled to the resolution, and cut in the middle.

    Raises:
        BadRow: if it cannot be decoded to its end.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = ImageOps.fit(image.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
    except Exception as error:
        # Also a bomb: a small file of billions of pixels.
        raise BadRow("undecodable image") from error
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


class ImageTextBatches(ResumableBatches):
    """
    Batches of `batch_size` rows, of the share that one worker of one rank has in the data. Of a pass that ends, the
    last batch may be smaller.

    Yields dictionaries of `prompts` (`list[str]`), `pixels` `(B, 3, R, R)` or none, and what was read for the batch:
    `rows`, `bad_rows` and `dropped` (reason -> count) and `bad_row_details`, a list of `reason`, `source`, `shard` and
    `row`.

    `state_dict` is the place of the next batch: the number of the batch and where the sources stand. A stream that has
    loaded it goes on with the same batches, bit for bit.

    Args:
        sources (`list[ImageTextSource]`): where rows are from, each by its weight.
        read ([`ImageTextReader`]): makes samples of rows.
        batch_size (`int`): rows of a batch.
        min_size (`int`, defaults to 1): a last batch of fewer rows is left out.
        share: `seed`, `rank`, `world_size`, `endless` and `max_bad_fraction` as in [`ResumableBatches`].

    Raises:
        ValueError: while it is iterated, if more than `max_bad_fraction` of the rows of a source are bad, or none is
            usable.
    """

    def __init__(
        self,
        sources: list[ImageTextSource],
        read: ImageTextReader,
        batch_size: int,
        min_size: int = 1,
        **share,
    ):
        super().__init__(sources, **share)
        self.read, self.batch_size, self.min_size = read, batch_size, min_size

    def _iterate(self, number: int = 0, sources: list[dict] | None = None) -> Iterator[dict]:
        reader, streams = self._open(sources)
        while True:
            batch = _Batch(streams, self.read, random.Random(f"{self.seed}-{reader.number}-{number}"))
            batch.fill(self.batch_size)
            if len(batch.samples) < self.min_size:
                return
            number += 1
            self._place = {"number": number, "sources": [stream.state() for stream in streams]}
            yield batch.collated()


class _Batch(RowCollector):
    """The [`ImageText`]s of one batch."""

    def __init__(self, streams: list[SourceStream], read: ImageTextReader, rng: random.Random):
        super().__init__(streams, rng)
        self.read = read

    def make(self, stream: SourceStream, row: Row) -> ImageText:
        return self.read(stream.source, row)

    def collated(self) -> dict:
        pixels, counts = [sample.pixels for sample in self.samples], self.counts
        return {
            "prompts": [sample.prompt for sample in self.samples],
            "pixels": None if pixels[0] is None else torch.stack(pixels),
            "rows": counts["rows"],
            "bad_rows": dict(counts["bad_rows"]),
            "dropped": dict(counts["dropped"]),
            "bad_row_details": counts["bad_row_details"],
        }


def open_image_sources(arguments: DataArguments, split: str, image_column: str | None = None) -> list[ImageTextSource]:
    """
    The sources of a configuration that have the split.

    Args:
        image_column (`str`, *optional*): column with the encoded image; images are not read without.

    Raises:
        ValueError: if a source lacks `train_split`, or none has another split; or as [`open_source`] does.
    """
    return open_each(arguments, split, lambda source: _open(source, split, image_column))


def _open(arguments: SourceArguments, split: str, image_column: str | None) -> ImageTextSource:
    arguments = dataclasses.replace(arguments, audio_column=image_column or "", speaker_column=None)
    folder = Path(arguments.dataset).expanduser()
    if arguments.format is None and folder.is_dir() and local_format(folder) == "audiofolder":
        arguments = dataclasses.replace(arguments, format="imagefolder")
    try:
        opened = open_source(arguments, split)
    except NoSuchSplit:
        raise
    except ValueError as error:
        raise ValueError(str(error).replace("`audio_column`", "`image_column`")) from error
    return ImageTextSource(opened.arguments, opened.format, opened.root, opened.shards)


def build_image_loader(
    arguments: DataArguments,
    split: str,
    batch_size: int,
    *,
    image_column: str | None = None,
    resolution: int | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    endless: bool = True,
    min_size: int = 1,
) -> BatchLoader:
    """
    Batches of a split for one of `world_size` processes; see [`ImageTextBatches`].

    Args:
        arguments ([`DataArguments`]): sources and bounds.
        split (`str`): every source must have it if it is `train_split`; else at least one.
        batch_size (`int`): rows of a batch.
        image_column (`str`, *optional*), resolution (`int`, *optional*): images are read if the column is given.
        endless (`bool`): without end, read by `num_workers` processes; if not, one pass in fixed order, read by this
            process.
        min_size (`int`, defaults to 1): a last batch of fewer rows is left out.

    Raises:
        ValueError: if a source, its split or a column is not there.
    """
    batches = ImageTextBatches(
        open_image_sources(arguments, split, image_column),
        ImageTextReader(None if image_column is None else resolution),
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        endless=endless,
        max_bad_fraction=arguments.max_bad_fraction,
        min_size=min_size,
    )
    return BatchLoader(batches, arguments.num_workers if endless else 0)
