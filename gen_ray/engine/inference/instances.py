"""Instances in the stored form of a model's data: pictures, arrays, texts and masks; read from files, or parsed.

The command line and the server share the parsing. An InstanceError names the input; the callers show it as a
flag, or as a field of the request.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ImageFile
from torch import Tensor
from torch.nn import functional as F

from gen_ray.datasets import characters, images
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import arrays
from gen_ray.engine.inference.texts import decode_tokens
from gen_ray.errors import UserError, argument, one_line
from gen_ray.maths.levels import stored

GREYS = 256
"""Levels of a picture file."""


ARGUMENTS = ("text", "hole")
"""Arguments that hold an instance themselves; the other instances are named by their file or data set."""


class InstanceError(UserError):
    """An instance that a model cannot use."""

    def __init__(
        self, field: str, reason: str, *, detail: str = "", too_large: bool = False, scalable: bool = False
    ) -> None:
        """Take the name of the input, a file or a request's field, and the reason without content of the input.

        detail is the reason for the user's own terminal, with content. too_large: the input exceeds a limit; scalable:
        it has another size or number of levels than the model's data, and could be scaled.
        """
        remedy = f": score and latent scale it with {argument('resize')}" if scalable else ""
        super().__init__(f"{argument(field) if field in ARGUMENTS else field}: {detail or reason}{remedy}")
        self.field, self.reason, self.too_large, self.scalable = field, reason, too_large, scalable


def read(file: Path, spec: DataSpec, *, resize: bool = False) -> Tensor:
    """Return the instances of a file, integers (N, *shape): N = 1 for a picture, any number for .npz and .txt.

    A grey value g in {0 … 255} of a picture becomes the nearest level, so that pictures written by gen_ray are read
    back exactly. resize scales pictures to the model's size. Raise UserError naming the file and the remedy.
    """
    readers: Mapping[str, Callable[[Path, DataSpec, bool], Tensor]] = READERS[spec.kind]
    if file.suffix.lower() not in readers:
        raise UserError(f"{file}: {spec.name} holds {spec.kind}, read from {' '.join(readers)}")
    try:
        return readers[file.suffix.lower()](file, spec, resize)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file}: cannot be read ({one_line(error, 120)})") from None


def dropped_part(file: Path, spec: DataSpec) -> str:
    """Return one line on what read loses of a file, "" if nothing.

    For a text that is the end, if it is shorter than an example; for a picture see ``rounded``.
    """
    if spec.is_image:
        return _rounded_picture(file, spec) if file.suffix.lower() in images.SUFFIXES else ""
    if file.suffix.lower() != ".txt":
        return ""
    whole, length = len(characters.read(file)), spec.shape[0]
    if not whole % length:
        return ""
    return f"{file}: {whole % length} of {whole} characters left out: fewer than a window of {length}"


def read_missing(file: Path, spec: DataSpec) -> Tensor:
    """Return a mask over one instance (1, *shape), True where missing: white in a picture, True in an .npz.

    Transparent pixels count as black. Raise UserError for a mask of another size, or without a missing value.
    """
    plain = mask_spec(spec)
    drawn = spec.is_image and file.suffix.lower() in images.SUFFIXES
    missing = _picture(file, plain, False, background=images.BLACK) if drawn else read(file, plain)
    if len(missing) != 1:
        raise UserError(f"{file}: holds {len(missing)} masks; give a file with one mask")
    return parse_missing(missing, spec, str(file))


def drawable(spec: DataSpec) -> bool:
    """Return whether examples can be picture files: images of 1 or 3 channels."""
    return spec.is_image and spec.shape[0] in images.MODES


@contextmanager
def picture_errors(field: str) -> Iterator[None]:
    """Turn errors of the image reader into InstanceError."""
    try:
        yield
    except images.ImageError as error:
        too_large = isinstance(error, images.TooLargeError)
        raise InstanceError(field, error.reason, detail=str(error), too_large=too_large) from None


def parse_picture(
    picture: ImageFile.ImageFile,
    spec: DataSpec,
    field: str,
    *,
    resize: bool,
    background: images.Colour = images.WHITE,
) -> Tensor:
    """Return an opened picture as one instance (1, C, H, W). Raise InstanceError."""
    with picture_errors(field):
        x = torch.from_numpy(images.values(images.decoded(picture, spec.shape[0], background=background)))[None]
    if x.shape[1:] != spec.shape and not resize:
        size = f"{x.shape[3]} x {x.shape[2]} pixels, the model's pictures are {spec.shape[2]} x {spec.shape[1]}"
        raise InstanceError(field, f"is {size}", scalable=True)
    return _scaled(x, spec.model_copy(update={"shape": tuple(x.shape[1:]), "levels": GREYS}), spec)


def parse_text(text: str, spec: DataSpec, field: str) -> Tensor:
    """Return a text of the model's length as tokens (1, L). Raise InstanceError."""
    if len(text) != spec.shape[0]:
        raise InstanceError(field, f"has {len(text)} characters, the model's texts have {spec.shape[0]}")
    return _tokens(text, spec, field)[None]


def parse_masked_text(text: str, spec: DataSpec, hole: str) -> tuple[Tensor, Tensor]:
    """Return the tokens of a text (1, L) and where they are missing (1, L); hole is the character for a missing one.

    A text that is too short is extended by missing tokens. Raise InstanceError with the field text or hole.
    """
    length = spec.shape[0]
    if len(hole) != 1 or hole in spec.alphabet:
        raise InstanceError("hole", "must be one character outside the model's alphabet")
    if len(text) > length:
        raise InstanceError("text", f"has {len(text)} characters, the model's texts have {length}")
    text = text.ljust(length, hole)
    missing = torch.tensor([[character == hole for character in text]])
    if not missing.any():
        raise InstanceError("text", "has no hole character; write it at each position to fill in")
    return parse_text(text.replace(hole, spec.alphabet[0]), spec, "text"), missing


def mask_spec(spec: DataSpec) -> DataSpec:
    """Return the spec of a mask for a spec's data; that of images has one channel."""
    plain = spec.model_copy(update={"levels": 2, "alphabet": "", "name": f"a mask for {spec.name}"})
    return plain.model_copy(update={"shape": (1, *spec.shape[1:])}) if spec.is_image else plain


def parse_missing(missing: Tensor, spec: DataSpec, field: str) -> Tensor:
    """Return a mask (1, *shape), True where missing, of one that is nonzero there. Raise InstanceError."""
    if not missing.any():
        raise InstanceError(field, "nothing is missing; mark the places to fill in with white, or 1")
    return missing.bool().expand(1, *spec.shape)


def convert(x: Tensor, own: DataSpec, spec: DataSpec, *, resize: bool) -> Tensor:
    """Return stored data x (N, *own.shape) converted to the stored form of another spec, (N, *spec.shape).

    Tokens are translated to the other alphabet. With resize, images of another shape or number of levels are scaled
    (bilinear, with antialiasing) and rounded to the nearest level. Without it, images of 256 levels are rounded to the
    model's levels, as picture files are. Raise UserError where the two specs do not fit together.
    """
    if own.kind != spec.kind:
        raise UserError(f"{own.name} holds {own.kind}, the model's {spec.name} holds {spec.kind}")
    if not spec.is_image:
        if own.shape != spec.shape:
            raise UserError(f"{own.name} has examples of shape {own.shape}, the model's {spec.name} {spec.shape}")
        return x if own.alphabet == spec.alphabet else torch.stack([_respell(row, own, spec) for row in x])
    if (own.shape, own.levels) == (spec.shape, spec.levels):
        return x
    if not resize and (own.shape, own.levels) != (spec.shape, GREYS):
        target = f"the model's {spec.name} {spec.shape} of {spec.levels}"
        raise InstanceError(own.name, f"is {own.shape} of {own.levels} levels, {target}", scalable=True)
    return _scaled(x, own, spec)


def rounded(x: Tensor, own: DataSpec, spec: DataSpec) -> str:
    """Return one line if images x (N, *own.shape) have grey values between the model's levels, else "".

    Images of another size return "", because scaling changes them anyway.
    """
    if not spec.is_image or own.shape != spec.shape or own.levels <= spec.levels:
        return ""
    nearest = _scaled(x, own, spec).float() * ((own.levels - 1) / (spec.levels - 1))
    if torch.equal(nearest.round(), x.float()):
        return ""
    return f"{own.name}: {own.levels} levels are rounded to the nearest of the model's {spec.levels}"


def _rounded_picture(file: Path, spec: DataSpec) -> str:
    if spec.levels >= GREYS or spec.shape[0] not in images.MODES:
        return ""
    x = torch.from_numpy(images.read(file, spec.shape[0]))[None]
    own = spec.model_copy(update={"shape": tuple(x.shape[1:]), "levels": GREYS, "name": str(file)})
    return rounded(x, own, spec)


def _scaled(x: Tensor, own: DataSpec, spec: DataSpec) -> Tensor:
    grey = x.float() / (own.levels - 1)
    if own.shape[0] != spec.shape[0]:
        grey = grey.mean(1, keepdim=True).expand(-1, spec.shape[0], -1, -1)
    if own.shape[1:] != spec.shape[1:]:
        grey = F.interpolate(grey, spec.shape[1:], mode="bilinear", antialias=True, align_corners=False)
    return _stored((grey * (spec.levels - 1)).round(), spec)


def _stored(x: Tensor, spec: DataSpec) -> Tensor:
    return stored(x.clamp(0, spec.levels - 1), spec.levels)


def _picture(file: Path, spec: DataSpec, resize: bool, *, background: images.Colour = images.WHITE) -> Tensor:
    if spec.shape[0] not in images.MODES:
        raise UserError(f"{file}: images of {spec.shape[0]} channels are read from .npz")
    with picture_errors(str(file)), images.opened(file) as picture:
        return parse_picture(picture, spec, str(file), resize=resize, background=background)


def _array(file: Path, spec: DataSpec, resize: bool) -> Tensor:
    name, values = arrays.read(file)
    x = torch.from_numpy(values.astype(np.int64))
    exact = bool(np.equal(values, x.numpy()).all())
    if spec.is_image and tuple(x.shape) == spec.shape[1:]:
        x = x.expand(spec.shape)
    x = x[None] if x.ndim == len(spec.shape) else x
    if tuple(x.shape[1:]) != spec.shape or not len(x):
        raise UserError(f"{file}: array {name!r} has shape {tuple(x.shape)}, {spec.name} needs (N, *{spec.shape})")
    if not exact or int(x.min()) < 0 or int(x.max()) >= spec.levels:
        raise UserError(f"{file}: array {name!r} must hold whole numbers from 0 to {spec.levels - 1}")
    return _stored(x, spec)


def _text(file: Path, spec: DataSpec, resize: bool) -> Tensor:
    """Return consecutive examples of a text; a shorter rest is dropped, which ``dropped_part`` reports."""
    text, length = characters.read(file), spec.shape[0]
    if len(text) < length:
        raise UserError(f"{file}: has {len(text)} characters; {spec.name} needs {length}, the length of its examples")
    pieces = [text[first : first + length] for first in range(0, len(text) - length + 1, length)]
    return torch.stack([_tokens(piece, spec, str(file)) for piece in pieces])


def _tokens(text: str, spec: DataSpec, where: str) -> Tensor:
    unknown = sorted(set(text) - set(spec.alphabet))
    if unknown:
        detail = f"has {''.join(unknown[:20])!r}, which does not occur in {spec.name}"
        reason = f"has {len(unknown)} characters that are not in the model's alphabet"
        raise InstanceError(where, reason, detail=detail)
    return _stored(torch.tensor([spec.alphabet.index(character) for character in text]), spec)


def _respell(row: Tensor, own: DataSpec, spec: DataSpec) -> Tensor:
    return _tokens(decode_tokens(row, own), spec, own.name)


READERS: Mapping[str, Mapping[str, Callable[[Path, DataSpec, bool], Tensor]]] = {
    "image": {**dict.fromkeys(images.SUFFIXES, _picture), ".npz": _array},
    "tokens": {".txt": _text, ".npz": _array},
}
