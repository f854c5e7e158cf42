"""Images as people have them: every kind is read to the same colours, and what is no image is called by its name."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from probe.scenes.files import (
    ORIENTATION,
    TURNS,
    UnfitPixelsError,
    decode_rgb,
    image_numbers,
    image_size,
    images_in,
    open_bytes,
    open_image,
    read_arrays,
    read_json,
    read_rgb,
    read_sixteen,
    upright,
)
from probe.scenes.reading import Folder

GREY = torch.linspace(0, 1, 24 * 32).reshape(24, 32)
RAMP = torch.stack([GREY, 1 - GREY, (GREY * 2) % 1])
INVERSE = {**{value: turn for value, turn in TURNS.items() if value not in (6, 8)}, 6: TURNS[8], 8: TURNS[6]}


def picture(mode: str = "RGB") -> Image.Image:
    values = (rearrange(RAMP, "c y x -> y x c") * 255).round().byte().numpy()
    return Image.fromarray(values).convert(mode)


def read(path: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    return read_rgb(path, Folder(path.parent), size)


LOSSLESS: dict[str, Callable[[Path], object]] = {
    "PNG": lambda path: picture().save(path, "PNG"),
    "RGBA PNG": lambda path: picture("RGBA").save(path, "PNG"),
    "BMP": lambda path: picture().save(path, "BMP"),
    "TIFF": lambda path: picture().save(path, "TIFF"),
    "packed TIFF": lambda path: picture().save(path, "TIFF", compression="tiff_lzw"),
    "WebP": lambda path: picture().save(path, "WEBP", lossless=True),
    "two pages": lambda path: picture().save(path, "TIFF", save_all=True, append_images=[Image.new("RGB", (4, 4))]),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_kind_is_told_by_content_not_by_ending(kind: str, tmp_path: Path):
    LOSSLESS[kind](tmp_path / "a.jpg")
    torch.testing.assert_close(read(tmp_path / "a.jpg"), RAMP, rtol=0, atol=1 / 255)
    assert image_size(tmp_path / "a.jpg", Folder(tmp_path)) == (24, 32)


LOSSY: dict[str, Callable[[Path], object]] = {
    "JPEG": lambda path: picture().save(path, "JPEG", quality=98),
    "CMYK": lambda path: picture("CMYK").save(path, "JPEG", quality=98),
    "MPO": lambda path: picture().save(
        path, "MPO", quality=98, save_all=True, append_images=[Image.new("RGB", (8, 6))]
    ),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_photos_come_near(kind: str, tmp_path: Path):
    """Of an MPO, which a phone writes into a .jpg, the first picture."""
    LOSSY[kind](tmp_path / "a.jpg")
    assert (read(tmp_path / "a.jpg")[:2] - RAMP[:2]).abs().mean() < 0.04


def test_grey_of_every_depth_is_the_same_grey(tmp_path: Path):
    eight = (GREY * 255).round().byte().numpy()
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray((GREY * 65535).round().numpy().astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray((GREY * 65535).round().numpy().astype(np.uint16)).save(tmp_path / "16.tif")
    for name, atol in (("8.png", 0.5 / 255), ("16.png", 1e-5), ("16.tif", 1e-5)):
        torch.testing.assert_close(read(tmp_path / name), GREY.expand(3, 24, 32), rtol=0, atol=atol + 1e-6)
    Image.fromarray(eight > 127).save(tmp_path / "1.png")
    assert torch.equal(read(tmp_path / "1.png")[0], torch.from_numpy(eight > 127).float())


def test_palettes_and_their_transparency(tmp_path: Path):
    """White shows where a colour of the palette, or of the image, is declared transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png")
    image.save(tmp_path / "t.png", transparency=1)
    assert read(tmp_path / "p.png")[:, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert read(tmp_path / "t.png")[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]


def stored(path: Path, value: int) -> None:
    """Store the picture so that EXIF must turn it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = value
    picture().transpose(INVERSE[value]).save(path, exif=exif)


@pytest.mark.parametrize("value", TURNS)
def test_exif_turns_only_what_then_has_the_cameras_size(value: int, tmp_path: Path):
    path = tmp_path / "a.png"
    stored(path, value)
    with open_image(path, Folder(tmp_path)) as image:
        torch.testing.assert_close(decode_rgb(upright(image)), RAMP, rtol=0, atol=1 / 255)
        as_stored = decode_rgb(image)
    sideways = value >= 5
    for size in (None, (32, 24) if sideways else (24, 32), (5, 5)):
        assert torch.equal(read(path, size), as_stored)
        assert image_size(path, Folder(tmp_path), size) == tuple(as_stored.shape[1:])
    if sideways:
        torch.testing.assert_close(read(path, (24, 32)), RAMP, rtol=0, atol=1 / 255)
        assert image_size(path, Folder(tmp_path), (24, 32)) == (24, 32)


def test_sixteen_bits_come_back_and_more_are_refused(tmp_path: Path):
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2800
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read_sixteen(tmp_path / name, Folder(tmp_path)), values)
    Image.fromarray(values.astype(np.int32) + 70000).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be used: its pixels reach from 70000 to 134400, expected 16"):
        read_sixteen(tmp_path / "a.tif", Folder(tmp_path))


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(100)


NOT_READ: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"hello", "is no image"),
    "zeros": (bytes(99), "is no image"),
    "HTML": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    "AppleDouble": (b"\0\x05\x16\x07" + bytes(78), "is a macOS resource file"),
    "GIF": (b"GIF89a" + bytes(20), "is a GIF"),
    "AVIF": (box(b"avif"), "is an AVIF image"),
    "video": (box(b"isom"), "is a video"),
    "EXR": (b"\x76\x2f\x31\x01" + bytes(20), "is an OpenEXR image"),
}


@pytest.mark.parametrize("case", NOT_READ)
def test_other_files_are_called_by_their_name(case: str, tmp_path: Path):
    content, message = NOT_READ[case]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.jpg {message}.*; expected PNG, JPEG, WebP, TIFF, BMP or HEIC") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"image 3 of it {message}"), open_bytes(content, "image 3 of it"):
        pass
    with pytest.raises(FileNotFoundError, match=r"b.jpg does not exist or is a broken link"):
        read(tmp_path / "b.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WebP"])
def test_a_truncated_file_is_no_whole_image_of_its_kind(kind: str, tmp_path: Path):
    stream = io.BytesIO()
    picture().save(stream, kind)
    for share in (0.3, 0.6):
        path = tmp_path / "a.jpg"
        path.write_bytes(stream.getvalue()[: int(share * len(stream.getvalue()))])
        with pytest.raises(ValueError, match=rf"a.jpg is not a whole {kind} image: \w+") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_heic_names_the_package_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(box(b"heic"))
    with pytest.raises(
        ValueError, match=r"a.heic is a HEIC photo, which needs pillow-heif .* pip install 'attention-probing\[heic\]'"
    ):
        read(tmp_path / "a.heic")


def test_numbers_and_other_spaces_are_no_colours(tmp_path: Path):
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"f.tif cannot be used: its pixels are 32-bit numbers \(mode F\)"):
        read(tmp_path / "f.tif")
    with pytest.raises(UnfitPixelsError, match=r"of mode LAB, expected colours"):
        decode_rgb(Image.new("LAB", (3, 4)))


def test_listing_leaves_hidden_files_out_and_counts_as_people_do(tmp_path: Path):
    for name in ("IMG_10.JPG", "IMG_9.webp", "._IMG_9.webp", ".thumb.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["IMG_9.webp", "IMG_10.JPG"]


def test_the_number_of_a_name_is_what_differs():
    assert image_numbers(["rect_001_3", "rect_010_3"]) == [1, 10]
    assert image_numbers(["7"]) == [7]
    assert image_numbers(["a", "b"]) is None
    assert image_numbers(["1_1", "2_2"]) is None
    assert image_numbers(["1", "2_2"]) is None
    assert image_numbers(["1_1", "1_2", "2_3"]) is None


def test_archives_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.scenes.files.MOST_BYTES", 1000)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * 5000 + b"[]"))
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(5000))
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_json(tmp_path / "a.json.gz", tmp_path)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_arrays(tmp_path / "a.npz", tmp_path)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[1]"))
    assert read_json(tmp_path / "b.json.gz", tmp_path) == [1]
