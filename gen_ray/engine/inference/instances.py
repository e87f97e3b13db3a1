"""Reads instances from files in the stored form of a model's data: pictures, arrays, texts, and masks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gen_ray.datasets import characters, images
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import arrays
from gen_ray.engine.inference.texts import decode_tokens
from gen_ray.errors import UserError
from gen_ray.maths.levels import stored

GREYS = 256
"""Levels of a picture file."""


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
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:120]})") from None


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
    plain = spec.model_copy(update={"levels": 2, "alphabet": "", "name": f"a mask for {spec.name}"})
    if spec.is_image:
        plain = plain.model_copy(update={"shape": (1, *spec.shape[1:])})
    drawn = spec.is_image and file.suffix.lower() in images.SUFFIXES
    missing = _picture(file, plain, False, background=images.BLACK) if drawn else read(file, plain)
    if len(missing) != 1:
        raise UserError(f"{file}: holds {len(missing)} masks; give a file with one mask")
    if not missing.any():
        raise UserError(f"{file}: the mask has no missing value; mark what to fill in white, or with True")
    return missing.bool().expand(1, *spec.shape)


def parse_masked_text(text: str, spec: DataSpec, hole: str) -> tuple[Tensor, Tensor]:
    """Return the tokens of a text (1, L) and where they are missing (1, L); hole is the character for a missing one.

    A text that is too short is extended by missing tokens. Raise UserError for characters unknown to the model and for
    a text that is too long.
    """
    text, length = characters.plain(text), spec.shape[0]
    if len(hole) != 1 or hole in spec.alphabet:
        raise UserError(f"must be one character that does not occur in {spec.name}", field="hole", value=repr(hole))
    if len(text) > length:
        raise UserError(f"the text has {len(text)} characters, {spec.name} has examples of {length}: shorten it")
    text = text.ljust(length, hole)
    missing = torch.tensor([[character == hole for character in text]])
    if not missing.any():
        raise UserError(f"the text has no missing character; write {hole!r} where one is to be filled in")
    return _tokens(text.replace(hole, spec.alphabet[0]), spec, "the text")[None], missing


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
        raise UserError(
            f"{own.name} is {own.shape} of {own.levels} levels, the model's {spec.name} {spec.shape} of {spec.levels}: "
            "`resize` scales it"
        )
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
    try:
        x = torch.from_numpy(images.read(file, spec.shape[0], background=background))[None]
    except images.ImageError as error:
        raise UserError(f"{file}: {error}") from None
    if x.shape[1:] != spec.shape and not resize:
        raise UserError(
            f"{file}: is {x.shape[3]} x {x.shape[2]} pixels, {spec.name} has {spec.shape[2]} x {spec.shape[1]}: "
            "give one of that size (score and latent scale it with `resize`)"
        )
    return _scaled(x, spec.model_copy(update={"shape": tuple(x.shape[1:]), "levels": GREYS}), spec)


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
        raise UserError(f"{where}: has {''.join(unknown[:20])!r}, which does not occur in {spec.name}")
    return _stored(torch.tensor([spec.alphabet.index(character) for character in text]), spec)


def _respell(row: Tensor, own: DataSpec, spec: DataSpec) -> Tensor:
    return _tokens(decode_tokens(row, own), spec, own.name)


READERS: Mapping[str, Mapping[str, Callable[[Path, DataSpec, bool], Tensor]]] = {
    "image": {**dict.fromkeys(images.SUFFIXES, _picture), ".npz": _array},
    "tokens": {".txt": _text, ".npz": _array},
}
