"""Kinds of files: which are read as images, and what the others are, by extension and first bytes.

The list of formats is closed: Pillow's other plugins include some that run outside programs (EPS).
An image under the extension of another format, or under none, is still read, as long as it is one
of these.
"""

import functools
import io
import re
from typing import IO, Literal, Protocol

from PIL import Image, features

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif",
    ".tiff", ".gif", ".avif", ".avifs", ".heic", ".heif", ".heics", ".heifs", ".hif", ".jp2",
    ".j2k", ".jpx", ".jpc", ".jpf", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb",
    ".vda", ".vst", ".ico",
})
FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM",
    "ICO",
)
# Pictures and films that are not read. They are listed one by one, as a person misses them; other
# files (texts, tables, archives) are only counted.
OTHER_PICTURES = frozenset({
    ".3fr", ".ai", ".arw", ".avi", ".bpg", ".cdr", ".cr2", ".cr3", ".crw", ".cur", ".czi", ".dcm",
    ".dcr", ".dcx", ".dds", ".djvu", ".dng", ".emf", ".eps", ".erf", ".exr", ".fit", ".fits",
    ".flif", ".fts", ".hdr", ".icns", ".iiq", ".jls", ".jxl", ".jxr", ".k25", ".kdc", ".lif",
    ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".mrw", ".msp", ".mts", ".nd2", ".nef", ".nii",
    ".nrw", ".orf", ".pcd", ".pcx", ".pdf", ".pef", ".pict", ".ps", ".psb", ".psd", ".qoi", ".raf",
    ".ras", ".raw", ".rgb", ".rw2", ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg", ".svgz", ".svs",
    ".webm", ".wbmp", ".wmf", ".wmv", ".x3f", ".xbm", ".xcf", ".xpm",
})
# fmt: on
TARGA_EXTENSIONS = frozenset({".tga", ".icb", ".vda", ".vst"})
TARGA_FOOTER = b"TRUEVISION-XFILE.\0"
EXTENSION = re.compile(r"\.(?=.*[a-z])[a-z0-9_~-]{1,12}")  # '.2021' and '. Smith' are none

FIRST_BYTES = 32
IMAGE_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0\0\0\0|II\*\0|MM\0\*|II\+\0|MM\0\+"
    rb"|RIFF.{4}WEBP|.{4}ftyp(avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1)|P[1-6][ \t\r\n#]|P[fF]\n"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|\0\0\x01\0[^\0]\0",
    re.DOTALL,
)
OTHER_STARTS = (
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"%PDF"), "a PDF file"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*<(svg|\?xml)", re.IGNORECASE), "a drawing or text (SVG, XML)"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a film, or a picture of another kind"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x76\x2f\x31\x01"), "OpenEXR"),
)


class Openable(Protocol):
    """A file's path, or what stands for one."""

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The entries of FORMATS that this installation of Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """The entries of IMAGE_EXTENSIONS that this installation of Pillow can open."""
    return IMAGE_EXTENSIONS - (set() if features.check("avif") else {".avif", ".avifs"})


def extension_of(name: str) -> str:
    """The lower-case extension with its dot, '' where what follows the last dot is none."""
    stem, dot, last = name.rpartition(".")
    extension = (dot + last).lower()
    return extension if stem and EXTENSION.fullmatch(extension) else ""


def starts_like_an_image(file: Openable) -> bool:
    """Whether a file's first bytes are those of one of FORMATS; False where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return IMAGE_STARTS.match(opened.read(FIRST_BYTES)) is not None
    except OSError:
        return False


def is_targa(file: Openable) -> bool:
    """Whether a file may be taken for Targa, which has no first bytes of its own: by its
    extension, or by the footer of its second version."""
    if file.suffix.lower() in TARGA_EXTENSIONS:
        return True
    with file.open("rb") as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(max(0, size - len(TARGA_FOOTER)))
        return opened.read() == TARGA_FOOTER


def other_kind(file: Openable) -> str | None:
    """What a file that is no image of FORMATS is, in a few words, where its first bytes tell."""
    with file.open("rb") as opened:
        start = opened.read(FIRST_BYTES)
    return next((kind for pattern, kind in OTHER_STARTS if pattern.match(start)), None)
