"""What a file is by its first bytes: images that are read, and what lies where an image should be."""

from pathlib import Path

HEAD = 32  # bytes that tell
READ = {"PNG": "PNG", "JPEG": "JPEG", "WebP": "WEBP", "TIFF": "TIFF", "BMP": "BMP", "HEIC": "HEIF"}
"""Kinds of images that are read, with Pillow's name of each."""
EXPECTED = "expected PNG, JPEG, WebP, TIFF, BMP or HEIC"
STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "a GIF"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\x05\x16\x07", "a macOS resource file (AppleDouble)"),
    (b"version https://git-lfs", "a Git LFS pointer: get the file with git lfs pull"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
)
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HTML = (b"<!doctype html", b"<html", b"<?xml")


def kind_of(head: bytes) -> str:
    """Return what a file is: a key of :data:`READ`, or what to call it.

    Args:
        head: Its first :data:`HEAD` bytes, or fewer.
    """
    if not head:
        return "empty (0 bytes)"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _boxed(head[8:12])
    if head.lstrip()[:15].lower().startswith(HTML):
        return "a web page, as of a failed download"
    return next((kind for start, kind in STARTS if head.startswith(start)), "no image")


def _boxed(brand: bytes) -> str:
    if brand in HEIC:
        return "HEIC"
    return "an AVIF image" if brand in (b"avif", b"avis") else "a video"


def is_hidden(path: Path) -> bool:
    """Return whether people do not see a file or folder: a name with a dot in front, or what macOS adds to archives."""
    return path.name.startswith(".") or path.name == "__MACOSX"
