"""The sources MNIST, Fashion-MNIST and CIFAR-10, in torchvision's layout of files."""

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np

from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.datasets.source import BATCH_VALUES, DataSource, stamps
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, argument, one_line

DOWNLOAD_TIMEOUT_SECONDS = 10.0


@contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class TorchvisionSource(DataSource):
    """A data set of torchvision. root (default ./data) is torchvision's root.

    Existing files are used unchanged, and only missing ones are downloaded. The official test split is kept.
    """

    dataset: ClassVar[str]
    folder: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    shape: ClassVar[tuple[int, int, int]]

    @property
    def home(self) -> Path:
        """Return torchvision's root."""
        return (self.root or Path("data")).absolute()

    def signature(self) -> list[list[object]]:
        """Return the stamps of the files. Missing files are downloaded first."""
        paths = [self.home / self.folder / file for file in self.files]
        if not all(path.is_file() for path in paths):
            self._download()
        return stamps(paths, self.home)

    def spec(self) -> DataSpec:
        """Return the spec with torchvision's names of the classes."""
        classes = tuple(self._open("test").classes)
        return DataSpec(name=self.name, kind="image", shape=self.shape, levels=256, classes=classes)

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the official training rows, then the test rows, in the publisher's order."""
        step = max(1, BATCH_VALUES // spec.dims)
        for part in ("train", "test"):
            x, labels = self._arrays(part, len(spec.classes))
            for first in range(0, len(x), step):
                keys = [f"{part}/{i}" for i in range(first, min(first + step, len(x)))]
                yield Batch(x=x[first : first + step], keys=keys, labels=labels[first : first + step], official=part)

    def check(self) -> None:
        """Raise UserError for a damaged file, if the format allows the check."""

    def _arrays(self, part: Literal["train", "test"], classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images (n, C, H, W) and labels (n,) of an official split."""
        data = self._open(part)
        x, labels = np.asarray(data.data), np.asarray(data.targets)
        channels, height, width = self.shape
        fits = x.shape[1:] in ((height, width), (height, width, channels)) and labels.shape == (len(x),)
        if not fits or not all(0 <= label < classes for label in np.unique(labels)):
            raise UserError(
                f"{self.home / self.folder}: {part} images {x.shape} and labels {labels.shape} are not "
                f"those of {self.dataset}; remove the folder and provide it again"
            )
        return x.reshape(-1, height, width, channels).transpose(0, 3, 1, 2), labels

    def _open(self, part: Literal["train", "test"]) -> Any:
        from torchvision import datasets  # a slow import

        self.check()
        try:
            return getattr(datasets, self.dataset)(self.home, train=part == "train")
        except (RuntimeError, ValueError, AssertionError, EOFError) as error:
            raise UserError(
                f"{self.home / self.folder}: torchvision cannot read {self.dataset} ({one_line(error)}); "
                "remove the folder and provide it again"
            ) from error

    def _download(self) -> None:
        """Download the files. The folder and its files appear only after all are complete."""
        from torchvision import datasets  # a slow import

        folder = self.home / self.folder
        present = next(parent for parent in (self.home, *self.home.parents) if parent.is_dir())
        try:
            with _socket_timeout(), TemporaryDirectory(prefix=".gen_ray-download-", dir=present) as part:
                getattr(datasets, self.dataset)(part, download=True)
                folder.mkdir(parents=True, exist_ok=True)
                for file in self.files:
                    (Path(part) / self.folder / file).replace(folder / file)
        except (OSError, RuntimeError) as error:
            absent = "" if present == self.home else f" (the folder {self.home} does not exist)"
            raise UserError(
                f"{self.name} is not in {folder}{absent} and could not be downloaded ({one_line(error)}): put "
                f"torchvision's files in {folder}, or run where the download works; "
                f"data.root ({argument('root')} of gen-ray prepare) names another folder"
            ) from error


class Mnist(TorchvisionSource):
    """Images (1, 28, 28) of 256 levels, 60,000 and 10,000, ten classes."""

    dataset = "MNIST"
    folder = "MNIST/raw"
    name = "mnist"
    files = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    shape = (1, 28, 28)

    def check(self) -> None:
        """Compare every file's size with its header. torchvision only checks that the file exists."""
        for path in (self.home / self.folder / file for file in self.files):
            with path.open("rb") as stream:
                head = stream.read(16)
            rank = head[3] if len(head) >= 8 else 0
            sizes = [int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
            if not rank or path.stat().st_size != 4 + 4 * rank + math.prod(sizes):
                raise UserError(f"{path}: truncated or not an IDX file; remove it and provide it again")


class FashionMnist(Mnist):
    """Images of clothes with the format of MNIST."""

    dataset = "FashionMNIST"
    folder = "FashionMNIST/raw"
    name = "fashion_mnist"


class Cifar10(TorchvisionSource):
    """Images (3, 32, 32) of 256 levels, 50,000 and 10,000, ten classes. torchvision checks the files' MD5."""

    dataset = "CIFAR10"
    folder = "cifar-10-batches-py"
    name = "cifar10"
    files = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    shape = (3, 32, 32)
