"""Manifest, checkpoint and artifact: the contents are complete and bit-exact, or refused with the file's name."""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gen_ray import run_directory
from gen_ray.engine.inference import artifact, model_files
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.training import checkpoint
from gen_ray.engine.training.step import TrainState
from gen_ray.errors import RunError, UserError
from gen_ray.storage import manifest
from tests.engine.tiny_models import CPU, FAMILIES, SPEC, experiment, images, model, session


def trained(family: str = "vae", steps: int = 1) -> TrainState:
    exp = experiment(family)
    one = TrainState(exp.model(SPEC), exp.training, session(exp), 10)
    for step in range(steps):
        one.step([images(8)], step)
    return one


def write_checkpoint(folder: Path) -> None:
    model_files.write(folder, trained().pack(1))


def read_checkpoint(folder: Path) -> None:
    one = trained(steps=0)
    checkpoint.read(folder, nets={"net": one.module, "ema": one.ema}, optimizer=one.optimizer)


def write_artifact(folder: Path) -> None:
    artifact.write(folder, model())


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], type[Exception], set[str]]] = {
    "checkpoint": (
        write_checkpoint,
        read_checkpoint,
        RunError,
        {f"{net}.safetensors" for net in ("net", "ema", "power-6.94", "power-16.97")}
        | {"optimizer.pt", "position.json"},
    ),
    "artifact": (write_artifact, artifact.load, UserError, {"weights.safetensors", "config.yaml", "meta.json"}),
}
both = pytest.mark.parametrize("kind", KINDS)


@both
def test_a_folder_holds_the_files_of_its_manifest(kind: str, tmp_path: Path) -> None:
    write, read, _, files = KINDS[kind]
    write(tmp_path / "f")
    assert (
        {p.name for p in (tmp_path / "f").iterdir()}
        == files | {manifest.NAME}
        == {*manifest.read(tmp_path / "f"), manifest.NAME}
    )
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", manifest.NAME], cwd=tmp_path / "f", check=True)
    read(tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@both
def test_one_flipped_bit_in_any_file_is_refused_with_its_name(kind: str, tmp_path: Path) -> None:
    """Flips more than 200 bits: 40 in each of the six files of a checkpoint."""
    write, read, error, files = KINDS[kind]
    write(tmp_path / "f")
    dice = random.Random(0)
    for name in sorted(files):
        file = tmp_path / "f" / name
        original = file.read_bytes()
        for _ in range(40):
            content = bytearray(original)
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            file.write_bytes(content)
            with pytest.raises(error, match=name) as caught:
                read(tmp_path / "f")
            assert "\n" not in str(caught.value)
        file.write_bytes(original)
    read(tmp_path / "f")


def test_any_flipped_bit_of_the_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ü b").write_text("b")
    manifest.write(tmp_path)
    manifest.verify(tmp_path)
    original = (tmp_path / manifest.NAME).read_bytes()
    for position in range(len(original)):
        for bit in range(8):
            content = bytearray(original)
            content[position] ^= 1 << bit
            (tmp_path / manifest.NAME).write_bytes(content)
            with pytest.raises(manifest.DamagedError):
                manifest.verify(tmp_path)
    for end in range(len(original)):
        (tmp_path / manifest.NAME).write_bytes(original[:end])
        with pytest.raises(manifest.DamagedError):
            manifest.verify(tmp_path)


@both
def test_missing_added_and_linked_files_are_refused(kind: str, tmp_path: Path) -> None:
    write, read, error, files = KINDS[kind]
    write(tmp_path / "f")
    for name in [*sorted(files), manifest.NAME]:
        copy = Path(shutil.copytree(tmp_path / "f", tmp_path / "copy"))
        (copy / name).unlink()
        with pytest.raises(error, match=f"{name}: missing"):
            read(copy)
        if name != manifest.NAME:
            (copy / name).symlink_to(tmp_path / "f" / name)
            with pytest.raises(error, match=name):
                read(copy)
        shutil.rmtree(copy)
    (tmp_path / "f" / "extra.pkl").write_text("")
    with pytest.raises(error, match=r"extra\.pkl: not in the manifest"):
        read(tmp_path / "f")
    with pytest.raises(error, match=manifest.NAME):
        read(tmp_path / "nowhere")


# ---- complete or not at all ---------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit every file to size bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@both
@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_disk_that_fills_up_leaves_the_old_folder_and_nothing_else(kind: str, size: int, tmp_path: Path) -> None:
    write, read, _, _ = KINDS[kind]
    write(tmp_path / "f")
    before = manifest.read(tmp_path / "f")
    with (
        files_of_at_most(size),
        pytest.raises(RunError, match=f"{tmp_path / 'f'}: .*{os.strerror(errno.EFBIG)}") as caught,
    ):
        write(tmp_path / "f")
    assert "\n" not in str(caught.value)
    assert manifest.read(tmp_path / "f") == before and [p.name for p in tmp_path.iterdir()] == ["f"]
    read(tmp_path / "f")


def test_any_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def full(draft: Path) -> None:
        (draft / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def interrupted(draft: Path) -> None:
        (draft / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(RunError, match=r"new: could not be written: disk full"):
        model_files.commit(tmp_path / "new", full)
    with pytest.raises(KeyboardInterrupt):
        model_files.commit(tmp_path / "new", interrupted)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/new: could not be written: Not a directory"):
        model_files.commit(tmp_path / "file" / "new", lambda draft: None)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_commit_replaces_the_whole_old_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        model_files.commit(tmp_path / "deep" / "f", lambda draft, name=name: (draft / name).touch())
    assert [p.name for p in (tmp_path / "deep" / "f").iterdir()] == ["new"]


def test_a_killed_writer_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    """After SIGKILL during a write the partial folder is hidden; a restart and the next commit work."""
    exp = experiment()
    code = (
        "import os, sys, pathlib\nfrom gen_ray.engine.inference import model_files\n"
        "def fill(draft):\n (draft / 'half').write_text('half'); os.kill(os.getpid(), 9)\n"
        "model_files.commit(pathlib.Path(sys.argv[1]) / 'step-000000003', fill)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert not (tmp_path / "step-000000003").exists()
    with session(exp, tmp_path).restore() as found:
        assert found is None
    write_checkpoint(tmp_path / "step-000000003")
    with session(exp, tmp_path).restore() as found:
        assert found == tmp_path / "step-000000003"


# ---- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_restores_net_average_optimizer_and_step(family: str, tmp_path: Path) -> None:
    one, other = trained(family, steps=3), trained(family, steps=0)
    model_files.write(tmp_path / "c", one.pack(3))
    position = checkpoint.read(tmp_path / "c", nets={"net": other.module, "ema": other.ema}, optimizer=other.optimizer)
    assert position["step"] == checkpoint.position(tmp_path / "c")["step"] == 3
    for mine, theirs in ((one.module, other.module), (one.ema, other.ema)):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    assert not all(torch.equal(p, q) for p, q in zip(one.module.parameters(), one.ema.parameters(), strict=True))
    for i, state in one.optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, other.optimizer.state_dict()["state"][i][k]) for k, v in state.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_artifact_gives_the_samples_of_its_model_to_the_bit(family: str, tmp_path: Path) -> None:
    before = model(family)
    artifact.write(tmp_path / "a", before)
    after = artifact.load(tmp_path / "a")
    assert after.experiment == before.experiment and after.spec == before.spec == SPEC and after.meta == before.meta
    assert not after.net.training and not any(p.requires_grad for p in after.net.parameters())
    for name in before.family.samplers():
        chains = (before.family.chain(name), after.family.chain(name))
        x = [generate(m.net, c, 9, seed=4, device=CPU) for m, c in zip((before, after), chains, strict=True)]
        assert torch.equal(*x)
    x, rng = images(4), [torch.Generator().manual_seed(0) for _ in range(2)]
    nats = [m.family.nll(m.net, x, g, effort=3).nats for m, g in zip((before, after), rng, strict=True)]
    assert torch.equal(*nats)


def test_an_artifact_holds_provenance_and_no_pickle(tmp_path: Path) -> None:
    artifact.write(tmp_path / "a", model())
    for file in (tmp_path / "a").iterdir():
        assert file.suffix in {".yaml", ".json", ".safetensors", ".sha256"}
        assert not file.read_bytes().startswith((b"\x80", b"PK"))
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert meta["data_fingerprint"] == "f" * 64 and meta["run_id"] == "toy-run" and meta["steps"] == 7
    assert {"torch", "numpy", "ray", "mlflow", "python", "gen_ray"} <= meta["versions"].keys()
    assert len(meta["git_commit"]) == 40 or meta["git_commit"] == "unknown"


def test_another_format_is_refused(tmp_path: Path) -> None:
    now = model()
    artifact.write(tmp_path / "a", replace(now, meta={**now.meta, "format": 3}))
    newer = "has artifact format 3, this gen_ray reads formats up to 2; a newer gen_ray can read it"
    with pytest.raises(UserError, match=newer):
        artifact.load(tmp_path / "a")


def test_format_1_is_read_whose_configuration_has_earlier_keys(tmp_path: Path) -> None:
    now = model()
    artifact.write(tmp_path / "now", now)
    files = {name: (tmp_path / "now" / name).read_bytes() for name in ("config.yaml", "weights.safetensors")}
    for earlier, present in (
        (b"accumulate", b"gradient_accumulation_steps"),
        (b"recompute", b"activation_checkpointing"),
    ):
        assert present in files["config.yaml"]
        files["config.yaml"] = files["config.yaml"].replace(present, earlier)
    model_files.write(tmp_path / "old", {**files, "meta.json": json.dumps({**now.meta, "format": 1}).encode()})
    assert artifact.load(tmp_path / "old").experiment == now.experiment
    assert run_directory.settings(tmp_path / "old", tmp_path).training == now.experiment.training


def test_weights_that_share_memory_or_are_not_contiguous_are_restored(tmp_path: Path) -> None:
    now: Model = model()
    first = next(p for p in now.net.parameters() if p.ndim == 2)
    first.data = first.data.T.contiguous().T
    artifact.write(tmp_path / "a", now)
    assert all(
        torch.equal(a, b)
        for a, b in zip(now.net.parameters(), artifact.load(tmp_path / "a").net.parameters(), strict=True)
    )
