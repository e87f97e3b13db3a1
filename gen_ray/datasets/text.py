"""The source ``text``: a text file as sequences of characters."""

from collections.abc import Iterator

import numpy as np

from gen_ray.datasets import characters
from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.datasets.source import BATCH_VALUES, DataSource, checked_levels, plain_name, stamps
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, argument


class Text(DataSource):
    """A text, divided into consecutive chunks of ``length`` characters. A shorter rest is dropped.

    A token is a character's index in the alphabet, which is the sorted set of all characters of the file, as
    ``characters`` reads it.
    """

    argument = "FILE"
    used_options = frozenset({"length"})

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return plain_name(self.path.stem)

    def signature(self) -> list[list[object]]:
        """Return the version of the reader and the file's stamp."""
        characters.check(self.path)
        return [["text", 2], *stamps([self.path], self.path.parent)]

    def spec(self) -> DataSpec:
        """Return the spec, after reading the file for its alphabet."""
        known, total = np.empty(0, np.uint32), 0
        for codes in self._codes():
            known, total = np.union1d(known, codes), total + len(codes)
        if total < self.options.length or len(known) < 2:
            raise UserError(
                f"{self.path}: {total} characters, {len(known)} of them different: too few for one "
                f"example of length {self.options.length}; {_remedy(total, len(known))}"
            )
        levels = checked_levels(len(known) - 1, str(self.path))
        alphabet = known.astype("<u4").tobytes().decode("utf-32-le")
        return DataSpec(name=self.name, kind="tokens", shape=(self.options.length,), levels=levels, alphabet=alphabet)

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the chunks from a second reading of the file. A chunk's identity is its number."""
        known = np.frombuffer(spec.alphabet.encode("utf-32-le"), dtype="<u4")
        length, done, rest = self.options.length, 0, np.empty(0, np.uint32)
        for codes in self._codes():
            codes = np.concatenate([rest, codes])
            n = len(codes) // length
            rest = codes[n * length :]
            x = np.searchsorted(known, codes[: n * length]).reshape(n, length)
            yield Batch(x=x, keys=[str(i) for i in range(done, done + n)])
            done += n

    def _codes(self) -> Iterator[np.ndarray]:
        """Yield the code points, shape (n,) each. Raise UserError at the first byte that is not text."""
        for text in characters.blocks(self.path, BATCH_VALUES):
            yield np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _remedy(total: int, different: int) -> str:
    """Return the remedy for a short text."""
    if total < 1 or different < 2:
        return "a text needs at least two different characters"
    shorter = f"{argument('option', 'length=N')} (data.options.length=N)"
    return f"provide a longer text, or shorter examples: {shorter}, N at most {total}"
