"""
Prompts, and images where a metric asks for them, in batches of a fixed size that can be taken up again anywhere.

They come from parquet shards, WebDatasets, folders with a table of texts (`imagefolder`), or any of these on the Hub.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.batches import EvenBatches
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import BatchLoader, open_sources
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import Source

# A small file may be billions.
_MAX_PIXELS = 100_000_000


@dataclass
class ImageText:
    """One row: a prompt, and the picture of shape `(3, R, R)` in [-1, 1] if images are read."""

    prompt: str
    pixels: torch.Tensor | None = None


class ImageTextMaker(Maker):
    """
    Makes an [`ImageText`] of a row.

    Args:
        image_column (`str`, *optional*): column with the encoded image; images are not read without.
        resolution (`int`, *optional*): height and width of the pictures in pixels.
    """

    def __init__(self, image_column: str | None = None, resolution: int | None = None):
        self.image_column, self.resolution = image_column, resolution

    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        return {"image": self.image_column, "text": source.text_column}

    def make(self, source: Source, row: Row) -> ImageText:
        """
        Raises:
            BadRow: if there is no prompt, or no image that can be decoded where images are read.
        """
        text = source.text(row)
        prompt = (" ".join(text) if isinstance(text, list) else text).strip()
        if not prompt:
            raise BadRow("no prompt")
        if self.image_column is None:
            return ImageText(prompt)
        return ImageText(prompt, decode_image(source.content(row, "image"), self.resolution))

    def collate(self, samples: list[ImageText]) -> dict[str, Any]:
        """`prompts` (`list[str]`), and `pixels` `(B, 3, R, R)` or none."""
        pixels = [sample.pixels for sample in samples]
        return {
            "prompts": [sample.prompt for sample in samples],
            "pixels": None if self.image_column is None else torch.stack(pixels),
        }


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
            if opened.width * opened.height > _MAX_PIXELS:
                raise BadRow("image of too many pixels", f"{opened.width} x {opened.height}")
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = ImageOps.fit(image.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
    except Exception as error:
        raise error if isinstance(error, BadRow) else BadRow("undecodable image") from error
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


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
    Batches of a split for one of `world_size` processes; see [`EvenBatches`] and [`ImageTextMaker.collate`].

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
    maker = ImageTextMaker(image_column, resolution)
    batches = EvenBatches(
        open_sources(arguments, split, maker.columns),
        maker,
        batch_size,
        min_size=min_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        endless=endless,
        max_bad_fraction=arguments.max_bad_fraction,
    )
    return BatchLoader(batches, arguments.num_workers if endless else 0)
