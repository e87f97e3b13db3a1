"""The reader of image files: all formats, modes and entry points give the same pixels or the same refusal."""

import base64
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from gen_ray.datasets import images
from gen_ray.datasets.image_folder import ImageFolder
from gen_ray.datasets.rows import BadRow
from gen_ray.datasets.source import SourceOptions
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.errors import UserError
from gen_ray.serving import inputs

HEIGHT, WIDTH = 5, 7
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GONE = np.zeros((HEIGHT, WIDTH), bool)
GONE[1:3, 2:5] = True
LOSSLESS = ("png", "bmp", "gif", "webp", "tiff", "ppm")


def saved(image: Image.Image, suffix: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    settings |= {"webp": {"lossless": True, "exact": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    image.save(buffer, Image.registered_extensions()[f".{suffix}"], **settings)
    return buffer.getvalue()


def png(
    depth: int, kind: int, rows: np.ndarray, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> bytes:
    """Return a PNG that Pillow cannot write: big-endian samples (H, W·C) of a bit depth, and extra chunks."""
    raw = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows)
    head = (b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    parts = [head, *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    whole = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def palette(colours: np.ndarray) -> Image.Image:
    """Return an image in mode P with the colours (H, W, 3); each pixel has its own palette entry."""
    image = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH), "L").convert("P")
    image.putpalette(colours.reshape(-1, 3).tobytes())
    return image


def with_alpha(pixels: np.ndarray, alpha: np.ndarray) -> Image.Image:
    mode = "LA" if pixels.ndim == 2 else "RGBA"
    return Image.fromarray(np.concatenate([np.atleast_3d(pixels), alpha[..., None]], -1).astype(np.uint8), mode)


def shown(pixels: np.ndarray, background: int = 255) -> np.ndarray:
    """Return the pixels with transparent ones replaced by the background."""
    return np.where(GONE if pixels.ndim == 2 else GONE[..., None], background, pixels).astype(np.uint8)


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


ALPHA = np.where(GONE, 0, 255)
HIDDEN = np.where(GONE[..., None], (255, 0, 0), COLOUR).astype(np.uint8)
BINARY = np.where(GREY > 127, 255, 0).astype(np.uint8)
Case = tuple[str, bytes, np.ndarray]


def cases() -> Iterator[Case]:
    """Yield the name, the content and the pixels, (H, W) or (H, W, 3), of each file."""
    for suffix in LOSSLESS:
        yield f"rgb.{suffix}", saved(Image.fromarray(COLOUR), suffix), COLOUR
        yield f"grey.{suffix}", saved(Image.fromarray(GREY), suffix), repeated(GREY) if suffix == "webp" else GREY
    for suffix in ("png", "bmp", "tiff", "pbm"):
        yield f"bits.{suffix}", saved(Image.fromarray(BINARY).convert("1"), suffix), BINARY
    for suffix in ("png", "bmp", "gif", "tiff"):
        yield f"palette.{suffix}", saved(palette(COLOUR), suffix), COLOUR
        yield f"grey-palette.{suffix}", saved(palette(repeated(GREY)), suffix), GREY
    for suffix in ("png", "tiff", "webp"):
        yield f"alpha.{suffix}", saved(with_alpha(HIDDEN, ALPHA), suffix), shown(COLOUR)
    for suffix in ("png", "tiff"):
        yield f"grey-alpha.{suffix}", saved(with_alpha(GREY, ALPHA), suffix), shown(GREY)
    entries = bytes(np.where(GONE, 0, 255).astype(np.uint8).ravel())
    yield "palette-alpha.png", saved(palette(HIDDEN), "png", transparency=entries), shown(COLOUR)
    yield "palette-alpha.gif", saved(palette(COLOUR), "gif", transparency=9), first_gone(COLOUR, 9)
    key = COLOUR.reshape(-1, 3)[9]
    yield "key.png", png(8, 2, COLOUR.reshape(HEIGHT, -1), (b"tRNS", struct.pack(">HHH", *key))), first_gone(COLOUR, 9)
    yield "cmyk.tiff", saved(Image.fromarray(COLOUR).convert("CMYK"), "tiff"), COLOUR
    yield "named-wrongly.png", saved(Image.fromarray(COLOUR), "bmp"), COLOUR
    yield "animated.gif", saved(palette(COLOUR), "gif", save_all=True, append_images=[palette(255 - COLOUR)]), COLOUR
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "webp", "tiff"):
            stored = Image.fromarray(TURNED[orientation](COLOUR).copy())
            yield f"turned-{orientation}.{suffix}", saved(stored, suffix, exif=exif), COLOUR


def test_lab_is_read_with_any_number_of_channels() -> None:
    lab = ImageCms.applyTransform(
        Image.fromarray(COLOUR),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    content = saved(lab, "tiff")
    colour, grey = images.read(content, 3), images.read(content, 1)
    assert np.abs(colour.astype(int) - COLOUR.transpose(2, 0, 1)).max() < 20
    assert np.array_equal(grey[0], np.array(Image.fromarray(colour.transpose(1, 2, 0)).convert("L")))


def first_gone(pixels: np.ndarray, index: int) -> np.ndarray:
    """Return the pixels with the one at a flat index transparent; all colours of the noise differ."""
    out = pixels.copy().reshape(-1, 3)
    out[index] = 255
    return out.reshape(pixels.shape)


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}
"""What a camera stores of an upright image, by EXIF orientation."""
CASES = {name: (content, picture) for name, content, picture in cases()}
DEEP = {
    "i16.png": saved(Image.fromarray(GREY.astype(np.uint16) * 200), "png"),
    "i16.tiff": saved(Image.fromarray(GREY.astype(np.uint16) * 200), "tiff"),
    "i16-lzw.tiff": saved(Image.fromarray(GREY.astype(np.uint16) * 200), "tiff", compression="tiff_lzw"),
    "i16.pgm": b"P5 7 5 65535\n" + (GREY.astype(">u2") * 200).tobytes(),
    "rgb16.ppm": b"P6 7 5 65535\n" + (COLOUR.astype(">u2") * 200).tobytes(),
    "rgb16.png": png(16, 2, COLOUR.reshape(HEIGHT, -1).astype(np.uint16) * 200),
    "la16.png": png(16, 4, RNG.integers(0, 2**16, (HEIGHT, 2 * WIDTH))),
    "rgba16.png": png(16, 6, RNG.integers(0, 2**16, (HEIGHT, 4 * WIDTH))),
    "i32.tiff": saved(Image.fromarray(GREY.astype(np.int32) * 2000), "tiff"),
    "float.tiff": saved(Image.fromarray(GREY.astype(np.float32)), "tiff"),
}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\n%%EndComments\n{} loop\nshowpage\n%%EOF\n"
BROKEN = {
    "postscript.png": (POSTSCRIPT, "not an image"),
    "empty.png": (b"", "not an image"),
    "cut.png": (saved(Image.fromarray(COLOUR), "png")[:-30], "damaged"),
    "huge.png": (png(8, 0, GREY, size=(46341, 46341)), "pixels"),
    "fits.png": (b"SIMPLE  =                    T" + b" " * 3000, "not an image"),
}


def spec(channels: int, levels: int = 256) -> DataSpec:
    return DataSpec(name="x", kind="image", shape=(channels, HEIGHT, WIDTH), levels=levels)


def by_folder(file: Path, channels: int) -> np.ndarray:
    [row] = ImageFolder(str(file.parent), None, SourceOptions()).rows(spec(channels))
    if isinstance(row, BadRow):
        raise UserError(str(row))
    return row.x[0]


def by_instances(file: Path, channels: int) -> np.ndarray:
    return instances.read(file, spec(channels))[0].numpy()


def by_http(file: Path, channels: int) -> np.ndarray:
    text = base64.b64encode(file.read_bytes()).decode()
    return inputs.from_pictures([text], spec(channels), "images", pixels=10**6, resize=False)[0]


READERS = {"prepare": by_folder, "score, impute, latent": by_instances, "http": by_http}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / "only").mkdir(exist_ok=True)
        (tmp_path / "only" / name).write_bytes(content)
        return tmp_path / "only" / name

    return write


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", CASES)
def test_every_entry_point_reads_the_same_pixels(put: Callable[[str, bytes], Path], name: str, reader: str) -> None:
    content, picture = CASES[name]
    file = put(name, content)
    whole = repeated(picture) if picture.ndim == 2 else picture
    assert (READERS[reader](file, 3).transpose(1, 2, 0) == whole).all()
    grey = picture if picture.ndim == 2 else np.asarray(Image.fromarray(picture).convert("L"))
    assert (READERS[reader](file, 1)[0] == grey).all()


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_grey_if_its_files_are(put: Callable[[str, bytes], Path], name: str) -> None:
    content, picture = CASES[name]
    found = ImageFolder(str(put(name, content).parent), None, SourceOptions()).spec()
    assert found.shape == (1 if picture.ndim == 2 else 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_jpeg_is_read_upright(put: Callable[[str, bytes], Path], orientation: int, reader: str) -> None:
    smooth = np.add.outer(np.arange(HEIGHT) * 30, np.arange(WIDTH) * 10).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = put("x.jpg", saved(Image.fromarray(TURNED[orientation](smooth).copy()), "jpg", exif=exif))
    assert np.abs(READERS[reader](file, 1)[0].astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused_everywhere(put: Callable[[str, bytes], Path], name: str, reader: str) -> None:
    file = put(name, DEEP[name])
    with pytest.raises(UserError, match="more than 8 bits per channel") as caught:
        READERS[reader](file, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BROKEN)
def test_other_files_are_refused_everywhere(put: Callable[[str, bytes], Path], name: str, reader: str) -> None:
    content, why = BROKEN[name]
    file = put(name, content)
    with pytest.raises(UserError, match=why) as caught:
        READERS[reader](file, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["alpha.png", "grey-alpha.png", "palette-alpha.png", "alpha.webp", "grey-alpha.tiff"])
def test_transparent_pixels_of_a_mask_are_known(put: Callable[[str, bytes], Path], name: str) -> None:
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    content = {
        "alpha": lambda suffix: saved(with_alpha(repeated(white), ALPHA), suffix),
        "grey-alpha": lambda suffix: saved(with_alpha(white, ALPHA), suffix),
        "palette-alpha": lambda suffix: saved(
            palette(repeated(white)), suffix, transparency=bytes(ALPHA.ravel().tolist())
        ),
    }[name.partition(".")[0]](name.partition(".")[2])
    file = put(name, content)
    assert (instances.read_missing(file, spec(3))[0].numpy() == ~GONE).all()
    known = inputs.from_mask(base64.b64encode(content).decode(), spec(3), pixels=10**6, resize=False)
    assert (known[0] == GONE).all()


def test_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name, why in (("pipe.png", "not a regular file"), ("folder.png", "a folder"), ("gone.png", "no such file")):
        with pytest.raises(UserError, match=f"{name}: {why}"):
            instances.read(tmp_path / name, spec(1))
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(images.ImageError, match="a link to a missing file"):
        images.read(tmp_path / "link.png", 1)
