"""Errors of the operating system end a command with one line; other unexpected errors are reported as bugs."""

import ast
import errno
import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import typer

from gen_ray.engine.evaluation.sampler_settings import sampler_settings
from gen_ray.errors import RunError, UserError, argument
from gen_ray.family import Family
from gen_ray.host import ray_token
from pipelines import cli, failures
from tests.conftest import ROOT, CommandResult

DEMO = ROOT / "configs" / "demo" / "digits-vae.yaml"
Run = Callable[..., CommandResult]
REFUSED = [
    (errno.ENOSPC, 1, "free some space"),
    (errno.EDQUOT, 1, "quota"),
    (errno.EMFILE, 1, "ulimit -n"),
    (errno.EIO, 1, "fault"),
    (errno.EROFS, 2, "writable"),
    (errno.EACCES, 2, "the permission"),
    (errno.ENAMETOOLONG, 2, "shorter"),
    (errno.ENOTDIR, 2, "is a file"),
    (errno.EISDIR, 2, "name a file"),
    (errno.ENOENT, 2, "No such file"),
]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("number", "code", "remedy"), REFUSED, ids=[errno.errorcode[number] for number, *_ in REFUSED])
def test_an_error_of_the_operating_system_is_one_line_with_a_remedy(
    gen_ray: Run, monkeypatch: pytest.MonkeyPatch, number: int, code: int, remedy: str, wrapped: bool
) -> None:
    def refuse(*_: object) -> None:
        error = OSError(number, os.strerror(number), "/there/a.yaml")
        if wrapped:
            raise RuntimeError("a task failed") from error
        raise error

    monkeypatch.setattr("gen_ray.experiment.load", refuse)
    result = gen_ray("train", DEMO)
    assert result.code == code and "a bug" not in result.fault
    assert result.fault.startswith(f"error: /there/a.yaml: {os.strerror(number)}") and remedy in result.fault


def test_other_errors_are_bugs() -> None:
    assert failures.explained(ZeroDivisionError()) is None and failures.explained(OSError("of a library")) is None
    assert failures.explained(FileNotFoundError(errno.ENOENT, "no name of a file")) is None
    assert failures.explained(MemoryError()) is not None and failures.explained(RuntimeError("a library's")) is None


def test_full_memory_of_a_gpu_is_one_line_with_a_remedy(gen_ray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory …")

    monkeypatch.setattr("gen_ray.experiment.load", fail)
    result = gen_ray("train", DEMO)
    assert result.code == 1 and "memory" in result.fault and "smaller batches" in result.fault


def test_a_current_folder_that_was_removed_is_named(
    gen_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = gen_ray("train", DEMO, "--dry-run")
    monkeypatch.chdir(tmp_path)
    assert result.code == 2 and "current folder was removed" in result.fault


def test_the_length_of_a_line_is_limited(gen_ray: Run) -> None:
    result = gen_ray("train", "a" * 5000 + ".yaml")
    assert result.code == 2 and len(result.fault) < 1100 and result.fault.endswith("File name too long")


def test_a_word_that_is_not_text_is_refused(gen_ray: Run) -> None:
    result = gen_ray("train", os.fsdecode(b"a\xff.yaml"))
    assert result.code == 2 and r"'a\udcff.yaml': is not text" in result.fault


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_can_print_everything(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, encoding=encoding))
    failures.prepare_streams()
    print("a – b … c × d → ä 日")
    sys.stdout.flush()
    shown = {"ascii": "a - b ... c x d -> ? ?", "latin-1": "a - b ... c × d -> ä ?", "utf-8": "a – b … c × d → ä 日"}
    assert bytes_.getvalue().decode(encoding) == shown[encoding] + "\n"


def test_a_user_without_a_home_can_run_every_verb(
    gen_ray: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(_: int) -> None:
        raise KeyError("no entry of this user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(RuntimeError):
        ray_token.exists()
    assert gen_ray("train", DEMO, f"storage.root={tmp_path}", "--dry-run").code == 0 and os.environ["HOME"] == "/"


@pytest.mark.parametrize("closed", [True, False])
def test_output_that_cannot_be_written_gives_no_traceback(closed: bool) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "train", str(DEMO), "--dry-run"]
    with open("/dev/full", "w") as full:
        out = subprocess.PIPE if closed else full
        running = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
        if running.stdout:
            running.stdout.close()
        assert running.stderr is not None
        result = running.stderr.read()
    assert running.wait() == 1
    assert result == ("" if closed else f"error: {os.strerror(errno.ENOSPC)}; {failures.RUN[errno.ENOSPC]}\n")


def test_an_error_that_was_expected_keeps_its_own_line(gen_ray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RunError("stopped at step 3") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("gen_ray.experiment.load", refuse)
    assert gen_ray("train", DEMO).fault == "error: stopped at step 3"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["train", "a.yaml", "--storage", "x"], "settings are given as key=value: storage.root=…"),
        (["sweep", "a.yaml", "--epochs", "3"], "training.epochs=…"),
        (["train", "a.yaml", "--tracking-uri", "x"], "tracking.uri=…"),
        (["plan", "a.yaml", "--batch-size", "3"], "data.batch_size=…"),
        (["train", "a.yaml", "--nonsense", "3"], "(--help lists"),
        (["sample", "a", "--epochs", "3"], "(--help lists"),
    ],
)
def test_an_option_that_is_a_setting_is_refused_with_its_key(gen_ray: Run, words: list[str], remedy: str) -> None:
    answer = gen_ray(*words)
    assert answer.code == 2 and "No such option" in answer.fault and remedy in answer.fault


def literals(tree: ast.AST) -> list[str]:
    """Return the strings of a module except its docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation]
    return [node.value for node in constants if isinstance(node.value, str)]


def arguments(tree: ast.AST) -> Iterator[str]:
    """Yield the names of arguments in the errors of a module."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        given = call.args[:1] if name == "argument" else [word.value for word in call.keywords if word.arg == "field"]
        if name.endswith("Error") or name == "argument":
            yield from (str(node.value) for node in given if isinstance(node, ast.Constant))


def flags(command: Any) -> set[str]:
    """Return the options of a command and of all commands below it."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*map(flags, getattr(command, "commands", {}).values()))


def test_no_message_of_the_library_names_a_flag() -> None:
    flag = re.compile(r"(?<![\w-])(?<!docker run )--[a-z]")
    for file in sorted((ROOT / "gen_ray").rglob("*.py")):
        messages = [text for text in literals(ast.parse(file.read_text())) if " " in text]
        assert not [text for text in messages if flag.search(text)], file


def test_the_command_line_has_a_flag_for_every_argument_in_the_errors_of_the_library() -> None:
    known = flags(typer.main.get_command(cli.new_app()))
    named = {name for file in (ROOT / "gen_ray").rglob("*.py") for name in arguments(ast.parse(file.read_text()))}
    assert {"resume", "out", "accept_data", "port"} <= named
    assert {failures.with_flags(argument(name)) for name in named} <= known


def test_only_the_helper_marks_a_word_as_an_argument() -> None:
    for file in sorted((ROOT / "gen_ray").rglob("*.py")):
        messages = literals(ast.parse(file.read_text()))
        assert file == ROOT / "gen_ray/errors.py" or not [text for text in messages if "argument `" in text], file


def test_an_argument_is_shown_as_its_flag_also_after_pickling() -> None:
    line = f"is not a file, but {argument('mask', 'a.npz')} is; see {argument('n')}"
    error = pickle.loads(pickle.dumps(UserError(line, field="accept_data", value=3)))
    assert error.field == "accept_data" and str(error).startswith("argument `accept_data=3`: is not a file")
    assert failures.with_flags(str(error)) == "--accept-data 3: is not a file, but --mask a.npz is; see -n"


def test_other_words_in_backquotes_are_kept() -> None:
    line = "has fewer than 16 characters; `openssl`, `key=value` and `serve deploy` are not arguments"
    assert failures.with_flags(line) == line
    assert failures.with_flags(f"{argument('n', 2)}: see `n`") == "-n 2: see `n`"


def test_a_hint_to_a_verb_reads_well_in_the_library_and_on_the_command_line() -> None:
    with pytest.raises(UserError) as caught:
        sampler_settings(cast(Family, SimpleNamespace(samplers=dict)), steps=[11])  # a family without samplers
    line = str(caught.value)
    assert line.startswith("argument `steps`: no sampler")
    assert line.endswith("(argument `list_samplers` of gen-ray sample)")
    shown = failures.with_flags(line)
    assert shown.startswith("--steps: no sampler") and shown.endswith("(--list-samplers of gen-ray sample)")


def test_a_message_does_not_control_the_terminal() -> None:
    """The name of a column in a file may hold escape sequences."""
    assert failures.one_line("column \x1b[31mred\n\x07x\x9b") == "column \\x1b[31mred \\x07x\\x9b"
