"""Tokens as the text they stand for, and many of them on one page."""

from pathlib import Path

from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.storage.replacement import write_output


def decode_tokens(tokens: Tensor, spec: DataSpec) -> str:
    """Return tokens (L,) as text."""
    return "".join(spec.alphabet[token] for token in tokens.tolist())


def page(samples: Tensor, spec: DataSpec) -> str:
    """Return samples (N, L) one below the other, each under a line with its number, which counts from 0."""
    return "".join(f"----- {number}\n{decode_tokens(tokens, spec)}\n" for number, tokens in enumerate(samples))


def write(file: Path, text: str) -> None:
    """Write a text as UTF-8, its line ends as they are. Raise UserError where that cannot be done."""
    write_output(file, text.encode("utf-8"))
