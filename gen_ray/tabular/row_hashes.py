"""Pseudorandom numbers of rows: functions of the file's name and the row's number."""

from hashlib import blake2b

import numpy as np

SPLIT, SAMPLE, HIDE = 0, 1, 2
"""Streams of independent numbers: for the choice of a row's split, for samples of rows, and for hidden cells."""


def row_hashes(file: str, numbers: np.ndarray, stream: int) -> np.ndarray:
    """Return uniform integers (n,) uint64 of the rows with numbers (n,) of a file.

    SplitMix64 (Steele, Lea & Flood 2014) with the BLAKE2b digest of the file's name and the stream as its seed.
    """
    digest = blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8, salt=bytes([stream])).digest()
    z = np.uint64(int.from_bytes(digest, "big")) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
