"""What a file is, told from its name and its first bytes, without decoding anything."""

from __future__ import annotations

SNIFFED_BYTES = 132
"""How much of a file :func:`sniff` needs: DICOM keeps its mark at byte 128."""

READABLE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs"}
)
# Images that tintype cannot decode are still images: their owner must hear of them rather than miss them.
IMAGE_EXTENSIONS = READABLE_EXTENSIONS | frozenset(
    {".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".psd", ".tga", ".dcm", ".dicom", ".cr2", ".cr3", ".nef"}
    | {".arw", ".dng"}
)

_JUNK = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "thumbnails",
    }
)

_READABLE_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_FOREIGN_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def is_junk(name: str) -> bool:
    """True for hidden files and folders and for what systems leave beside images; it is never data."""
    return name.startswith(".") or name.lower() in _JUNK


def extension(name: str) -> str:
    """The extension in lower case with its dot, or an empty string."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def sniff(prefix: bytes) -> str | None:
    """Name the image format that a file's first :data:`SNIFFED_BYTES` bytes show.

    Returns:
        One of ``JPEG PNG GIF TIFF BMP WEBP AVIF PPM``, the formats that tintype decodes, else None.
    """
    for mark, name in _READABLE_MARKS:
        if prefix.startswith(mark):
            return name
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are not enough of a mark: text may begin with them.
    if prefix[:2] == b"BM" and int.from_bytes(prefix[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if prefix[4:8] == b"ftyp" and _brands(prefix) & {b"avif", b"avis"}:
        return "AVIF"
    if prefix[:1] == b"P" and prefix[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6", b"f") and prefix[2:3].isspace():
        return "PPM"
    return None


def describe(prefix: bytes) -> str:
    """Say what a file that is none of the readable images seems to be, e.g. ``a text file``."""
    for mark, name in _FOREIGN_MARKS:
        if prefix.startswith(mark):
            return name
    if prefix[128:132] == b"DICM":
        return "a DICOM file"
    if prefix[4:8] == b"ftyp":
        return "a HEIC image" if _brands(prefix) & {b"heic", b"heix", b"heim", b"hevc", b"mif1"} else "a video"
    start = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML file"
    if not any(prefix):
        return "nothing but zero bytes"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in prefix):
        return "a text file"
    return "in no known image format"


def _brands(prefix: bytes) -> set[bytes]:
    length = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    return {prefix[8:12], *(prefix[at : at + 4] for at in range(16, length - 3, 4))}
