"""The reader of image files, for data sets, instances on the command line and pictures in requests.

Rules: The decoder is one of ``FORMATS``, regardless of the file's name. The size is checked before pixels are decoded.
EXIF orientation is applied. Transparent pixels show a background. More than 8 bits per channel are rejected, because
their range is unknown. Of an animation the first frame is read.
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

from gen_ray.errors import PicklableError, one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's permitted decoders. Without this list Pillow chooses one by content, and may start Ghostscript."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode of an opaque 8-bit image by the number of channels."""
MAX_PIXELS = 64_000_000
MAX_SCANS = 64
"""Maximum number of scans of a JPEG. A scan is a pass over all pixels, and a small file can hold 100,000 scans."""
Colour = tuple[int, int, int, int]
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
"""Backgrounds of transparent pixels. Masks use black, because white marks a missing value."""
_GREY = frozenset({"1", "L", "LA", "La"})
_DEEP = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class ImageError(PicklableError):
    """The reason why an image cannot be used, without the file's name. ``reason`` does not contain file content."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Take the reason, and as detail the decoder's message, which may contain file content."""
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


class TooLargeError(ImageError):
    """An image exceeds the limit of pixels or scans."""


def read(source: Path | bytes, channels: int, *, background: Colour = WHITE) -> np.ndarray:
    """Return the pixels of an image file, (C, H, W) uint8 with C = channels. Raise ImageError."""
    with opened(source) as image:
        return values(decoded(image, channels, background=background))


def opened(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Return an image after reading only its header. The caller closes it. Raise ImageError."""
    if isinstance(source, Path):
        _check_file(source)
    try:
        with warnings.catch_warnings():  # the limit below is lower than that of Pillow's warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeError(f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise ImageError(f"not an image that can be read; {', '.join(FORMATS)} can") from None
    except Exception as error:  # decoders raise various exceptions for damaged headers
        raise ImageError("not an image that can be read", one_line(error)) from error
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
    """Raise ImageError unless path is a regular file or a link to one. Reading a pipe would block."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise ImageError("a link to a missing file" if path.is_symlink() else "no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(kind):
        raise ImageError("a folder, not a file" if stat.S_ISDIR(kind) else "not a regular file")


def _check_depth(image: ImageFile.ImageFile) -> None:
    """Raise ImageError for more than 8 bits per channel. In colour images Pillow would silently drop the low bits."""
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    deepest = image.mode if image.mode in _DEEP else ""
    if image.format in ("PNG", "TIFF"):
        raw = [str(values[0]) for values in arguments]
        deepest = next((mode for mode in raw if re.search(r";(12|16|32|64)", mode)), deepest)
    if image.format == "PPM" and any(len(values) == 2 and int(values[1]) > 255 for values in arguments):
        deepest = f"{image.mode};16"
    if deepest:
        raise ImageError(f"more than 8 bits per channel (mode {deepest}): convert it to 8 bits first")


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
    """Raise any exception of a decoder as ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("the image is damaged", one_line(error)) from error
