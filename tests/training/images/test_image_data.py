"""Prompts and images from every kind of source: what a row becomes, what is bad, and the place in the data."""

import io
import json
import tarfile
import zlib

import pytest
import torch

from dtm_hf.training.config.arguments import DataArguments
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.images.data import build_image_loader, decode_image


def loader(folder, split="train", images=False, batch_size=4, **options):
    endless = options.pop("endless", False)
    column = {"image_column": options.pop("image_column", "image"), "resolution": 16} if images else {}
    settings = {"max_bad_fraction": 0.5, "num_workers": 0} | options
    arguments = DataArguments(dataset=str(folder), **settings)
    return build_image_loader(arguments, split, batch_size, endless=endless, **column)


def picture(size, colour, mode="RGB", kind="PNG", **options):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


# One picture


def test_a_picture_is_cut_in_the_middle():
    from PIL import Image

    image = Image.new("RGB", (30, 10), "black")
    image.paste((255, 255, 255), (10, 0, 20, 10))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    pixels = decode_image(buffer.getvalue(), 10)
    assert pixels.shape == (3, 10, 10) and pixels.dtype == torch.float32
    assert pixels.min() > 0.9


def test_what_is_transparent_is_white():
    assert decode_image(picture((8, 8), (0, 0, 0, 0), "RGBA"), 8).eq(1).all()
    assert decode_image(picture((8, 8), (0, 0, 0, 255), "RGBA"), 8).eq(-1).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_any_mode(mode):
    pixels = decode_image(picture((9, 12), 0, mode, "TIFF"), 8)
    assert pixels.shape == (3, 8, 8) and pixels.isfinite().all() and pixels.abs().max() <= 1


def test_turned_as_its_exif_says():
    from PIL import Image

    image = Image.new("RGB", (8, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    pixels = decode_image(buffer.getvalue(), 8)
    assert pixels[:, :4].max() < -0.9 and pixels[:, 4:].min() > 0.9


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_picture_that_ends_too_early_is_bad(cut):
    content = picture((64, 64), (10, 200, 30), kind="JPEG")
    with pytest.raises(BadRow, match="undecodable image"):
        decode_image(content[: len(content) - 1 - cut] if cut else b"", 8)


def test_a_picture_of_billions_of_pixels_is_not_decoded():
    content = bytearray(picture((8, 8), (10, 200, 30), kind="PNG"))
    content[16:24] = (12_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(BadRow, match="image of too many pixels"):
        decode_image(bytes(content), 8)


# Sources


def test_text_alone_reads_no_image(image_corpus):
    batches = list(loader(image_corpus))
    # Row 7 has no image, and nobody asks.
    assert sum(len(batch["prompts"]) for batch in batches) == 19
    assert batches[0]["pixels"] is None
    assert batches[0]["prompts"][0] == "a red square, number 0"
    assert sum(batch["rows"] for batch in batches) == 20
    reasons = [detail for batch in batches for detail in batch["bad_row_details"]]
    assert reasons == [{"reason": "no prompt", "source": str(image_corpus), "shard": "train-00000.parquet", "row": 3}]


def test_images_are_read_where_a_column_names_them(image_corpus):
    batches = list(loader(image_corpus, images=True))
    assert [len(batch["prompts"]) for batch in batches] == [4, 4, 4, 4, 2]
    assert batches[0]["pixels"].shape == (4, 3, 16, 16)
    bad = {reason: count for batch in batches for reason, count in batch["bad_rows"].items()}
    assert bad == {"no prompt": 1, "undecodable image": 1}


def test_a_folder_of_image_files(image_folder):
    (batch,) = loader(image_folder, images=True, batch_size=6)
    assert batch["pixels"].shape == (6, 3, 16, 16)
    assert batch["prompts"][5] == "a pink square, number 5"
    # The prompts are not taken for paths.
    (texts,) = loader(image_folder, batch_size=6)
    assert texts["prompts"] == batch["prompts"]


def test_a_file_outside_the_folder_is_not_read(image_folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture((8, 8), "red"))
    folder = tmp_path / "folder"
    (folder / "train").mkdir(parents=True)
    lines = [{"file_name": "../../secret.png", "text": "a"}, {"file_name": "own.png", "text": "b"}]
    (folder / "train" / "own.png").write_bytes(picture((8, 8), "red"))
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (batch,) = loader(folder, images=True)
    assert batch["prompts"] == ["b"] and batch["bad_rows"] == {"image file outside the folder": 1}


def test_a_webdataset(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for i in range(5):
            for name, content in ((f"{i}.png", picture((12, 12), "green")), (f"{i}.txt", f"prompt {i}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    batches = list(loader(tmp_path, images=True, image_column="png", text_column="txt"))
    assert [batch["prompts"] for batch in batches] == [[f"prompt {i}" for i in range(4)], ["prompt 4"]]
    assert batches[0]["pixels"].shape == (4, 3, 16, 16)


def test_a_column_that_is_not_there(image_corpus):
    with pytest.raises(ValueError, match="no column 'picture' \\(`image_column`\\); it has \\['image', 'text'\\]"):
        loader(image_corpus, images=True, image_column="picture")
    with pytest.raises(ValueError, match="no column 'caption' \\(`text_column`\\)"):
        loader(image_corpus, text_column="caption")


def test_too_many_bad_rows_stop_the_run(image_corpus):
    with pytest.raises(ValueError, match="2 of 20 rows cannot be trained on.*1 no prompt, 1 undecodable image"):
        list(loader(image_corpus, images=True, max_bad_fraction=0.05))


# The place in the data


@pytest.mark.parametrize("workers", [0, 2])
def test_taken_up_at_any_batch(image_corpus, workers):
    # Beyond the end of an epoch.
    def fresh():
        return loader(image_corpus, endless=True, num_workers=workers)

    whole, places = [], []
    stream = fresh()
    batches = iter(stream)
    for _ in range(12):
        whole.append(next(batches)["prompts"])
        places.append(json.loads(json.dumps(stream.state_dict())))
    for count in (1, 5, 9):
        again = fresh()
        again.load_state_dict(places[count - 1])
        rest = iter(again)
        assert [next(rest)["prompts"] for _ in range(12 - count)] == whole[count:]


def test_two_ranks_share_the_rows(image_corpus):
    def prompts(rank):
        arguments = DataArguments(dataset=str(image_corpus), num_workers=0, max_bad_fraction=0.5)
        stream = build_image_loader(arguments, "train", 2, rank=rank, world_size=2, endless=False)
        return [prompt for batch in stream for prompt in batch["prompts"]]

    shares = prompts(0), prompts(1)
    assert len(shares[0]) + len(shares[1]) == 19 and not set(shares[0]) & set(shares[1])
