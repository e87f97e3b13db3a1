"""Image files as pixels: the only reader, for data sets, instances on the command line and pictures in requests.

Rules: the decoder is one of ``FORMATS``, whatever a file is called; the size is checked before a pixel is decoded; EXIF
orientation is applied; transparency shows a background; more than 8 bits a channel is refused, because their range is
not known; of an animation the first frame is read.
"""

import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's decoders that may run. Without this list Pillow chooses by content, and starts Ghostscript."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
MODES = {1: "L", 3: "RGB"}
"""Pillow's name of an opaque image of 8 bits, by channels."""
MAX_PIXELS = 64_000_000
MAX_SCANS = 64
"""Of a JPEG: each scan is a pass over all pixels, and a small file can hold a hundred thousand scans."""
Colour = tuple[int, int, int, int]
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
"""Backgrounds behind transparent pixels. Masks take black, because white marks a missing value."""
_GREY = frozenset({"1", "L", "LA", "La"})
_DEEP = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class ImageError(Exception):
    """Why an image cannot be used, as a phrase without the file's name; ``reason`` repeats nothing of the content."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep the reason apart from the decoder's own message."""
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


class TooLargeError(ImageError):
    """The image asks for more work than is allowed."""


def read(source: Path | bytes, channels: int, *, background: Colour = WHITE) -> np.ndarray:
    """Return the pixels of an image file, (C, H, W) uint8 with C = channels. Raise ImageError."""
    with opened(source) as image:
        return values(decoded(image, channels, background=background))


def opened(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Return an image of which only the header is read; the caller closes it. Raise ImageError."""
    if isinstance(source, Path):
        _check_file(source)
    try:
        with warnings.catch_warnings():  # the limit below is lower than the one that Pillow warns at
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeError(f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise ImageError(f"not an image that can be read; {', '.join(FORMATS)} can") from None
    except Exception as error:  # decoders raise anything on damaged headers
        raise ImageError("not an image that can be read", _line(error)) from error
    if image.width * image.height > max_pixels:
        image.close()
        raise TooLargeError(f"{image.width} x {image.height} pixels, more than the {max_pixels:,} pixels allowed")
    return image


def decoded(image: ImageFile.ImageFile, channels: int, *, background: Colour = WHITE) -> Image.Image:
    """Return an opened image upright, opaque and of 8 bits: mode L (channels 1) or RGB (3). Raise ImageError."""
    with _damage():
        plain = _opaque(image, background)
        return (plain.convert("RGB") if plain.mode == "LAB" else plain).convert(MODES[channels])


def values(image: Image.Image) -> np.ndarray:
    """Return a decoded image as an array, (C, H, W) uint8."""
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def is_grey(image: ImageFile.ImageFile) -> bool:
    """Return whether an opened image is stored as grey. Raise ImageError.

    Palettes count as grey if all pixels are; other images are judged by their mode, without decoding.
    """
    _check_depth(image)
    if image.mode not in ("P", "PA"):
        return image.mode in _GREY
    with _damage():
        pixels = np.asarray(_opaque(image, WHITE).convert("RGB"))
    return bool((pixels == pixels[..., :1]).all())


def _opaque(image: ImageFile.ImageFile, background: Colour) -> Image.Image:
    _check_depth(image)
    _check_scans(image)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright
    layer = upright.convert(_PREMULTIPLIED.get(upright.mode, upright.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert("RGB")


def _check_file(path: Path) -> None:
    """Raise ImageError unless path leads to a regular file, not to a folder, or a pipe that would block."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise ImageError("a link to a missing file" if path.is_symlink() else "no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(kind):
        raise ImageError("a folder, not a file" if stat.S_ISDIR(kind) else "not a regular file")


def _check_depth(image: ImageFile.ImageFile) -> None:
    """Raise ImageError for more than 8 bits a channel; of colours Pillow would drop the low bits without a word."""
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    deepest = image.mode if image.mode in _DEEP else ""
    if image.format in ("PNG", "TIFF"):
        raw = [str(values[0]) for values in arguments]
        deepest = next((mode for mode in raw if re.search(r";(12|16|32|64)", mode)), deepest)
    if image.format == "PPM" and any(len(values) == 2 and int(values[1]) > 255 for values in arguments):
        deepest = f"{image.mode};16"
    if deepest:
        raise ImageError(f"more than 8 bits a channel (mode {deepest}): convert it to 8 bits first")


def _check_scans(image: ImageFile.ImageFile) -> None:
    if image.format not in ("JPEG", "MPO") or image.fp is None:
        return
    position = image.fp.tell()
    image.fp.seek(0)
    scans = image.fp.read().count(b"\xff\xda")
    image.fp.seek(position)
    if scans > MAX_SCANS:
        raise TooLargeError(f"the JPEG has {scans} scans, more than the {MAX_SCANS} allowed")


@contextmanager
def _damage() -> Iterator[None]:
    """Raise as ImageError whatever a decoder raises on a damaged file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("the image is damaged", _line(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
