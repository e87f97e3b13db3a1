"""Data sets of torchvision: tiny copies of Fashion-MNIST and CIFAR-10, missing and damaged files, a hanging server."""

import hashlib
import pickle
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from gen_ray.datasets import torchvision_sets
from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.rows import SPLITS, Batch, split_indices
from gen_ray.datasets.shards import load_split
from gen_ray.errors import UserError


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.fixture
def clothes(tmp_path: Path) -> dict[str, np.ndarray]:
    """Write 240 training and 20 test images in the format of Fashion-MNIST and return them."""
    raw, rng = tmp_path / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    arrays = {}
    for part, n in (("train", 240), ("t10k", 20)):
        arrays[part] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", arrays[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", arrays[part][:, 0, 0] % 10)
    return arrays


def test_official_splits_are_kept_and_validation_is_carved_from_train(tmp_path: Path, clothes: dict) -> None:
    prepared = prepare("fashion_mnist", root=tmp_path, out=tmp_path / "out")
    assert prepared.spec.shape == (1, 28, 28) and prepared.spec.levels == 256 and prepared.spec.name == "fashion_mnist"
    assert prepared.spec.classes[-1] == "Ankle boot"
    places = split_indices(Batch(x=np.empty(0), keys=[f"train/{i}" for i in range(240)], official="train"))
    train = clothes["train"]
    want = {"train": train[places == 0], "validation": train[places == 1], "test": clothes["t10k"]}
    for split in SPLITS:
        x, labels = load_split(prepared, split)
        assert np.array_equal(x[:, 0], want[split]) and np.array_equal(labels, want[split][:, 0, 0] % 10)


@pytest.mark.usefixtures("clothes")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 5, 12, -1])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / "FashionMNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{name}: truncated"):
        prepare("fashion_mnist", root=tmp_path, out=tmp_path / "out")


@pytest.mark.usefixtures("clothes")
@pytest.mark.parametrize("labels", [np.zeros(239, np.uint8), np.full(240, 10, np.uint8)])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(UserError, match="FashionMNIST/raw: train images"):
        prepare("fashion_mnist", root=tmp_path, out=tmp_path / "out")


def test_cifar10_is_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "cifar-10-batches-py"
    home.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (6, 20, 3072), np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    sums = []
    for name, data in zip(names, x, strict=True):
        (home / name).write_bytes(pickle.dumps({"data": data, "labels": [3] * 20}))
        sums.append([name, hashlib.md5((home / name).read_bytes()).hexdigest()])
    (home / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": hashlib.md5((home / "batches.meta").read_bytes()).hexdigest(),
    }
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    prepared = prepare("cifar10", root=tmp_path, out=tmp_path / "out")
    assert prepared.spec.shape == (3, 32, 32) and prepared.spec.classes == tuple("abcdefghij")
    assert np.array_equal(load_split(prepared, "test")[0], x[5].reshape(20, 3, 32, 32))
    (home / "data_batch_2").write_bytes(b"not what was published")
    with pytest.raises(UserError, match="cifar-10-batches-py: torchvision cannot read"):
        prepare("cifar10", root=tmp_path, out=tmp_path / "other")


@pytest.mark.parametrize("below", ["", "typo", "typo/deeper"])
def test_an_absent_data_set_names_the_folder_and_the_remedies_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    root = tmp_path / below
    folder = root / "FashionMNIST" / "raw"
    with pytest.raises(UserError, match=rf"put torchvision's files in {folder}, or run where the download") as caught:
        prepare("fashion_mnist", root=root, out=tmp_path / "out")
    assert "\n" not in str(caught.value) and "data.root (argument `root` of gen-ray prepare)" in str(caught.value)
    assert (f"the folder {root} does not exist" in str(caught.value)) == bool(below)
    assert not list(tmp_path.iterdir())


def test_downloaded_files_appear_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clothes: dict) -> None:
    folder, root = tmp_path / "FashionMNIST", tmp_path / "new" / "root"

    def download(home: str, *, train: bool = True, download: bool = False) -> object:
        if download:
            shutil.copytree(folder, Path(home) / "FashionMNIST")
            (Path(home) / "FashionMNIST" / "raw" / "leftover.gz").touch()
        return known(home, train=train)

    known = datasets.FashionMNIST
    monkeypatch.setattr(datasets, "FashionMNIST", download)
    prepared = prepare("fashion_mnist", root=root, out=tmp_path / "out")
    assert prepared.rows["test"] == len(clothes["t10k"]) and len(list((root / "FashionMNIST/raw").iterdir())) == 4
    assert {item.name for item in root.iterdir()} == {"FashionMNIST"} and not list(tmp_path.glob(".gen_ray*"))


@pytest.mark.slow  # it listens on a port
def test_a_server_that_never_answers_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision_sets, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        started = time.monotonic()
        with pytest.raises(UserError, match="mnist is not in"):
            prepare("mnist", root=tmp_path, out=tmp_path / "out")
    assert time.monotonic() - started < 5 and socket.getdefaulttimeout() is None
