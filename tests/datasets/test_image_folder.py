"""Image folders: layouts, stable splits, and every kind of bad file."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen_ray.cluster.evaluation.evaluate import reference_of
from gen_ray.datasets.image_folder import ImageFolder
from gen_ray.datasets.prepare import BadRows, Prepared, SourceOptions, prepare
from gen_ray.datasets.rows import SPLITS, Batch, split_indices
from gen_ray.datasets.shards import load_split
from gen_ray.errors import UserError


def draw(folder: Path, names: list[str], *, colour: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Write noise images of 6 x 4 pixels (width x height) and return their pixels (C, H, W) by name."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name in names:
        pixels = rng.integers(0, 256, (4, 6, 3) if colour else (4, 6), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        drawn[name] = pixels.transpose(2, 0, 1) if colour else pixels[None]
    return drawn


def make(folder: Path, skip: int = 0, **options: int) -> Prepared:
    return prepare(
        f"image_folder:{folder}", out=folder.parent / "out", options=SourceOptions(**options), on_bad_row=BadRows(skip)
    )


def split_by_content(prepared: Prepared) -> dict[bytes, str]:
    return {row.tobytes(): split for split in SPLITS for row in load_split(prepared, split)[0]}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Return a folder of 60 grey images."""
    draw(tmp_path / "flat", [f"{i:03d}.png" for i in range(60)])
    return tmp_path / "flat"


@pytest.mark.parametrize("colour", [False, True])
def test_classes_are_folders_and_every_image_round_trips(tmp_path: Path, colour: bool) -> None:
    drawn = draw(tmp_path / "pets", [f"{kind}/{i}.png" for kind in ("dog", "cat") for i in range(40)], colour=colour)
    prepared = make(tmp_path / "pets")
    assert prepared.spec.classes == ("cat", "dog") and prepared.spec.shape == ((3 if colour else 1), 4, 6)
    assert prepared.spec.name == "pets" and prepared.spec.levels == 256
    found = {}
    for split in SPLITS:
        x, labels = load_split(prepared, split)
        found |= {row.tobytes(): prepared.spec.classes[label] for row, label in zip(x, labels, strict=True)}
    assert found == {pixels.tobytes(): name.split("/")[0] for name, pixels in drawn.items()}


def test_a_flat_folder_has_no_labels(flat: Path) -> None:
    prepared = make(flat)
    assert prepared.spec.classes == () and load_split(prepared, "train")[1] is None
    assert sum(prepared.rows.values()) == 60


def test_no_row_changes_its_split_when_others_are_added_or_removed(flat: Path) -> None:
    before = split_by_content(make(flat))
    draw(flat, [f"new{i}.png" for i in range(30)], seed=1)
    for path in sorted(flat.iterdir())[:5]:
        path.unlink()
    after = split_by_content(make(flat))
    shared = before.keys() & after.keys()
    assert len(shared) == 55 and all(before[row] == after[row] for row in shared)


def test_a_split_does_not_depend_on_where_the_folder_is(flat: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(flat, tmp_path / "elsewhere" / "moved")
    assert split_by_content(make(flat)) == split_by_content(make(Path(moved)))


def test_the_split_depends_on_the_path_below_the_folder(flat: Path) -> None:
    names = sorted(path.name for path in flat.iterdir())
    counts = np.bincount(split_indices(Batch(x=np.empty(0), keys=names)), minlength=3)
    assert list(make(flat).rows.values()) == counts.tolist()


def corrupt(path: Path, kind: str) -> None:
    """Write one bad file of the given kind."""
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) * 2 // 3])
    elif kind == "flipped":
        path.write_bytes(whole[:50] + bytes([whole[50] ^ 255]) + whole[51:])
    elif kind == "bomb":
        head = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        path.write_bytes(whole[:8] + chunk + whole[33:])
    elif kind == "other size":
        Image.new("L", (5, 4)).save(path)
    elif kind == "16 bits":
        Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(path)
    else:
        path.write_bytes({"garbage": b"not an image", "empty": b""}[kind])


REASONS = {
    "garbage": "not an image",
    "empty": "not an image",
    "truncated": "damaged",
    "flipped": "damaged",
    "bomb": "9000 x 9000 pixels, more",
    "other size": "5 x 4 pixels.*6 x 4.*image_size",
    "16 bits": "8 bits",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_image_stops_preparing_with_its_name_or_is_set_aside(flat: Path, kind: str) -> None:
    corrupt(flat / "007.png", kind)
    with pytest.raises(UserError, match=f"007.png: .*{REASONS[kind]}") as caught:
        make(flat)
    assert "\n" not in str(caught.value)
    prepared = make(flat, skip=1)
    assert sum(prepared.rows.values()) == 59 and prepared.quarantined == 1
    [line] = (prepared.folder / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == str(flat / "007.png") and json.loads(line)["reason"]


def test_skip_k_tolerates_k_bad_rows_and_not_one_more(flat: Path) -> None:
    for i in range(3):
        corrupt(flat / f"{i:03d}.png", "garbage")
    with pytest.raises(UserError, match=r"002.png.*bad row 3, but at most 2 may"):
        make(flat, skip=2)
    assert not (flat.parent / "out").exists()
    assert make(flat, skip=3).quarantined == 3
    assert make(flat, skip=9).quarantined == 3
    with pytest.raises(UserError, match=r"without 3 bad rows.*skip:3"):
        make(flat)


def test_bad_rows_are_parsed() -> None:
    assert BadRows.parse("stop") == BadRows(0) and BadRows.parse("skip:12") == BadRows(12)
    for wrong in ("skip", "skip:-1", "skip:x", "", "stop:1"):
        with pytest.raises(UserError, match="skip:K"):
            BadRows.parse(wrong)


def test_a_folder_without_readable_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of 1 images can be read.*a\.png"):
        make(tmp_path / "d", skip=10)
    (tmp_path / "d" / "a.png").unlink()
    with pytest.raises(UserError, match="no image files"):
        make(tmp_path / "d")


def test_images_beside_folders_of_images_are_ambiguous(flat: Path) -> None:
    draw(flat, ["cat/a.png"])
    with pytest.raises(UserError, match="both"):
        make(flat)


def test_image_size_scales_images_of_any_size(flat: Path) -> None:
    Image.new("L", (300, 200), 77).save(flat / "big.png")
    prepared = make(flat, image_size=8)
    assert prepared.spec.shape == (1, 8, 8) and sum(prepared.rows.values()) == 61
    assert (np.full((1, 8, 8), 77, np.uint8)).tobytes() in split_by_content(prepared)


def test_hidden_and_other_files_are_ignored(flat: Path) -> None:
    (flat / "._000.png").write_bytes(b"what some systems leave behind")
    (flat / "README").write_text("x")
    assert sum(make(flat).rows.values()) == 60


def test_all_files_are_closed(flat: Path) -> None:
    source = ImageFolder(str(flat), None, SourceOptions())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for kind, name in zip(REASONS, sorted(flat.iterdir()), strict=False):
        corrupt(name, kind)
    batches = list(source.rows(source.spec()))
    assert batches and len(list(Path("/proc/self/fd").iterdir())) == before


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_links_to_class_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    draw(tmp_path / "store", [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(30)])
    (tmp_path / "pets").mkdir()
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).symlink_to(tmp_path / "store" / kind)
    (tmp_path / "store" / "cat" / "above").symlink_to(tmp_path / "store")
    assert len(ImageFolder(str(tmp_path / "store"), None, SourceOptions()).files) == 60
    linked = make(tmp_path / "pets")
    assert linked.spec.classes == ("cat", "dog") and len(split_by_content(linked)) == 60


@pytest.mark.parametrize("kind", ["dangling link", "link loop", "pipe"])
def test_an_entry_that_is_not_a_file_is_a_bad_row(flat: Path, kind: str) -> None:
    bad = flat / "bad.png"
    if kind == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to(bad if kind == "link loop" else flat / "nowhere.png")
    with pytest.raises(UserError, match=r"bad\.png: (a link to a missing file|cannot be read|not a regular file)"):
        make(flat)
    assert make(flat, skip=1).quarantined == 1


@pytest.mark.parametrize(
    ("name", "target"),
    [("c1", "/nowhere/c1"), ("c0/more", "nowhere"), ("val", "nowhere"), ("c1", "c1"), ("notes.txt", "nowhere")],
)
@pytest.mark.parametrize("others", [True, False])
def test_a_link_to_a_missing_folder_is_named(tmp_path: Path, name: str, target: str, others: bool) -> None:
    """Otherwise the class would be left out without a message."""
    (tmp_path / "pets" / "c0").mkdir(parents=True)
    if others:
        draw(tmp_path / "pets", [f"c0/{i}.png" for i in range(3)])
    (tmp_path / "pets" / name).symlink_to(target)
    with pytest.raises(UserError, match=rf"{name}: (a link to a missing file or folder|cannot be read)"):
        make(tmp_path / "pets")


def test_a_folder_with_an_images_name_is_a_folder(flat: Path, tmp_path: Path) -> None:
    (flat / "empty.png").mkdir()
    assert sum(make(flat).rows.values()) == 60
    draw(tmp_path / "pets", [f"{kind}/{i}.png" for kind in ("cat.png", "dog.png") for i in range(30)])
    assert make(tmp_path / "pets").spec.classes == ("cat.png", "dog.png")


@pytest.mark.parametrize(
    ("folders", "carved"),
    [
        ({"train": "train", "val": "validation"}, "test"),
        ({"Training": "train", "TEST": "test"}, "validation"),
        ({"train": "train", "valid": "validation", "testing": "test"}, ""),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_folders_named_like_splits_are_the_splits(
    tmp_path: Path, folders: dict[str, str], carved: str, labelled: bool
) -> None:
    """A split that is not provided is carved from the training images."""
    parts = [f"{'c' + str(i % 2) + '/' if labelled else ''}{i}.png" for i in range(60)]
    drawn = {name: draw(tmp_path / "d", [f"{name}/{part}" for part in parts], seed=k) for k, name in enumerate(folders)}
    prepared = make(tmp_path / "d")
    found = split_by_content(prepared)
    assert prepared.spec.classes == (("c0", "c1") if labelled else ()) and len(found) == 60 * len(folders)
    for name, split in folders.items():
        mine = {found[pixels.tobytes()] for pixels in drawn[name].values()}
        assert mine == ({"train", carved} - {""} if split == "train" else {split})


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("train/a.png", "val/a.png", "extra/a.png"), "named like splits, beside extra"),
        (("train/a.png", "val/a.png", "a.png"), r"named like splits, beside a\.png"),
        (("train/a.png", "val/a.png", "valid/a.png"), "two of one meaning"),
        (("train/c/a.png", "val/a.png"), "val lacks the class folders"),
        (("train/c/a.png", "train/a.png", "val/c/a.png"), "holds both"),
    ],
)
def test_layouts_with_two_meanings_are_refused(tmp_path: Path, names: tuple[str, ...], why: str) -> None:
    draw(tmp_path / "d", list(names))
    with pytest.raises(UserError, match=why):
        make(tmp_path / "d")


def test_a_split_name_beside_other_classes_is_a_class(tmp_path: Path) -> None:
    draw(tmp_path / "d", [f"{kind}/{i}.png" for kind in ("train", "car") for i in range(30)])
    assert make(tmp_path / "d").spec.classes == ("car", "train")


def test_a_mixture_of_grey_and_colour_is_colour(tmp_path: Path) -> None:
    grey = draw(tmp_path / "d", [f"a{i}.png" for i in range(30)])
    colour = draw(tmp_path / "d", [f"b{i}.png" for i in range(30)], colour=True)
    prepared = make(tmp_path / "d")
    expected = {np.repeat(x, 3, 0).tobytes() for x in grey.values()} | {x.tobytes() for x in colour.values()}
    assert prepared.spec.shape == (3, 4, 6) and split_by_content(prepared).keys() == expected


@pytest.mark.parametrize(
    ("folder", "name"), [("birds", "birds"), ("birds/train", "birds-train"), ("my birds!", "my-birds")]
)
def test_a_data_set_is_named_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert ImageFolder(str(tmp_path / folder), None, SourceOptions()).name == name


def test_one_class_gives_no_extractor(tmp_path: Path) -> None:
    draw(tmp_path / "one", [f"cat/{i}.png" for i in range(60)])
    assert reference_of(make(tmp_path / "one")).extractor is None


def test_a_file_is_not_a_folder(flat: Path) -> None:
    with pytest.raises(UserError, match="is a file, not a folder"):
        make(flat / "000.png")
