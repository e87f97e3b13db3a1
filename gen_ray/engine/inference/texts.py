"""Converts tokens to text, and many texts to one page."""

from pathlib import Path

from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.storage.replacement import write_output


def decode_tokens(tokens: Tensor, spec: DataSpec) -> str:
    """Return tokens (L,) as text."""
    return "".join(spec.alphabet[token] for token in tokens.tolist())


def page(samples: Tensor, spec: DataSpec) -> str:
    """Return samples (N, L) as one text, each below a line with its number, counted from 0."""
    return "".join(f"----- {number}\n{decode_tokens(tokens, spec)}\n" for number, tokens in enumerate(samples))


def write(file: Path, text: str) -> None:
    """Write a text as UTF-8 with its line ends unchanged. Raise UserError where the file cannot be written."""
    write_output(file, text.encode("utf-8"))
