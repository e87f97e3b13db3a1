"""Files of messages that wait for an MLflow store, and the takeover of files of processes that have ended.

A file belongs to the process in its name. Another process takes a file over by renaming it, which only one process can
do, and removes it when all its messages are delivered.
"""

import base64
import json
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from gen_ray.host.process import is_gone, this_process
from gen_ray.storage.paths import write_atomic
from gen_ray.tracking.store import Store

MESSAGES, DAMAGED, REFUSED = ".jsonl", ".damaged", ".refused"
"""Suffixes of file names: in use, not readable, and with messages that MLflow refused."""
FORMER_NAMES = {"tag": "set_tags", "show": "log_image", "show_text": "log_text", "keep": "log_artifact"}
"""The names of methods in files that earlier versions wrote, and the present names."""
logger = logging.getLogger(__name__)

Message = tuple[str, str, dict[str, Any]]
"""A run's id, the name of a method of TrackedRun (or "open", its constructor) and its arguments."""


def new_file(folder: Path) -> Path:
    """Return the name of a new file of this process."""
    return folder / f"{quote(this_process(), safe='')}@{time.time_ns()}{MESSAGES}"


def save(file: Path, store: Store, messages: Iterable[Message]) -> None:
    """Write messages to a store into a file atomically. Raise OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [[store.uri, store.experiment, this_process()], *messages]
    write_atomic(file, "\n".join(json.dumps(line, default=_plain) for line in lines))


def take_over(folder: Path, store: Store) -> Iterator[tuple[Path, list[Message]]]:
    """Take over the files of processes that have ended; yield each file's new name and its messages to a store.

    A damaged file is set aside with a warning. A file that this user may not read or rename is skipped with a warning,
    because it may be intact and a process of another user can send it.
    """
    for file in sorted(folder.glob(f"*{MESSAGES}")):
        try:
            (*where, process), *messages = _read(file)
        except FileNotFoundError:  # another process has taken it over
            continue
        except OSError as error:
            _warn(file, error)
            continue
        except (ValueError, TypeError, RecursionError) as error:
            set_aside(file, DAMAGED, f"cannot be read ({error})")
            continue
        name, at, _ = file.name.partition("@")
        if where == [store.uri, store.experiment] and is_gone(unquote(name) if at else str(process)):
            mine = new_file(folder)
            if _renamed(file, mine):
                yield mine, messages


def set_aside(file: Path, end: str, why: str) -> None:
    """Rename a file so that it is not sent. Log a warning, also if renaming is not allowed."""
    aside = file.with_suffix(end)
    if _renamed(file, aside):
        logger.warning("%s: %s; its messages to MLflow are not sent, the file is kept as %s", file, why, aside.name)


def remove(file: Path) -> None:
    """Remove a file whose messages are delivered. Log a warning if that is not allowed."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: its messages to MLflow are sent, and it cannot be removed (%s)", file, error.strerror)


def _renamed(file: Path, new: Path) -> bool:
    """Return whether this process has renamed a file: False if another process was faster, or if it is not allowed."""
    try:
        file.rename(new)
    except FileNotFoundError:
        return False
    except OSError as error:
        _warn(file, error)
        return False
    return True


def _warn(file: Path, error: OSError) -> None:
    logger.warning(
        "%s: is passed over (%s); its messages to MLflow are sent by a training of its owner", file, error.strerror
    )


def _read(file: Path) -> list[Any]:
    head, *messages = (json.loads(line, object_hook=_made) for line in file.read_text(encoding="utf-8").splitlines())
    if not isinstance(head, list) or len(head) != 3:
        raise ValueError("its first line does not name a store")
    for message in messages:
        run_id, verb, args = message
        if not (isinstance(run_id, str) and isinstance(verb, str) and isinstance(args, dict)):
            raise ValueError("a line is not a message")
    return [head, *((run_id, FORMER_NAMES.get(verb, verb), args) for run_id, verb, args in messages)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "bytes": base64.b64encode(value.tobytes()).decode()}
    return str(value)


def _made(value: dict[str, Any]) -> Any:
    if value.keys() == {"shape", "bytes"}:
        return np.frombuffer(base64.b64decode(value["bytes"]), np.uint8).reshape(value["shape"])
    return value
