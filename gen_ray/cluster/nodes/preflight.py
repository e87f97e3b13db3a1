"""Checks, before Ray starts, of an environment that Ray would refuse or wait for endlessly; each error is one line."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from gen_ray.errors import RunError, UserError, argument

ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@]+):(?P<port>\d{1,5})")
ANSWER_SECONDS = 5.0
THRESHOLD, REFRESH = "RAY_memory_usage_threshold", "RAY_memory_monitor_refresh_ms"
USUAL_THRESHOLD = 0.95


def check(address: str | None) -> None:
    """Raise UserError for an environment that Ray cannot work in, RunError if the named cluster does not answer."""
    _check_variables()
    if address is None:
        _check_memory()
    elif address not in ("auto", "local"):
        _check_address(address)


def _check_variables() -> None:
    if os.environ.get("RAY_TRAIN_V2_ENABLED", "1").lower() not in ("1", "true"):
        value = os.environ["RAY_TRAIN_V2_ENABLED"]
        raise UserError(f"RAY_TRAIN_V2_ENABLED={value}: trainings need Ray Train V2; unset it")
    _numeric(THRESHOLD, float, lambda number: 0 < number <= 1, "a share of the memory, more than 0 and at most 1")
    _numeric(REFRESH, int, lambda number: number >= 0, "milliseconds, 0 to switch Ray's memory monitor off")
    resources = os.environ.get("RAY_OVERRIDE_RESOURCES")
    if resources is not None:
        try:
            json.loads(resources)
        except ValueError:
            raise UserError(f"RAY_OVERRIDE_RESOURCES={resources}: is not JSON; unset it") from None


def _numeric(name: str, kind: type, is_valid: Callable[[float], bool], meaning: str) -> None:
    """Raise UserError if a variable is not a valid number: Ray's processes would abort without a message."""
    text = os.environ.get(name)
    if text is None:
        return
    try:
        valid = is_valid(kind(text))
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{name}={text}: must be {meaning}; correct or unset it")


def _check_memory() -> None:
    """Raise RunError if this machine's memory is so full that Ray would kill its workers."""
    if os.environ.get(REFRESH) == "0":
        return
    threshold, used = float(os.environ.get(THRESHOLD, USUAL_THRESHOLD)), psutil.virtual_memory().percent / 100
    if used > threshold:
        raise RunError(
            f"{used:.0%} of this machine's memory is in use, and Ray ends workers above {threshold:.0%}: "
            f"free memory, or raise {THRESHOLD}",
            reason="memory",
        )


def _check_address(address: str) -> None:
    match = ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"]) < 2**16:
        dashboard = f"an http address is the dashboard's, for {argument('address')} of gen-ray submit; "
        hint = dashboard if "://" in address else ""
        raise UserError(f"RAY_ADDRESS={address}: is not HOST:PORT of a Ray head, e.g. 10.0.0.1:6379; {hint}or unset it")
    try:
        reach(match["host"].strip("[]"), int(match["port"]))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({reason}); start one or unset RAY_ADDRESS",
            reason="cluster",
        ) from None


def reach(host: str, port: int) -> None:
    """Connect to a port and close the connection. Raise OSError."""
    socket.create_connection((host, port), ANSWER_SECONDS).close()


@contextmanager
def translated(address: str | None) -> Iterator[None]:
    """Translate Ray's errors on start into UserError or RunError with the remedy."""
    where = f"RAY_ADDRESS={address}: " if address else ""
    try:
        yield
    except ConnectionError as error:
        raise RunError(f"{where}no Ray cluster answers ({_line(error)})", reason="cluster") from None
    except OSError as error:
        if "AF_UNIX path length" not in str(error):
            remedy = "RAY_TMPDIR names the folder for Ray's files"
            raise RunError(f"Ray cannot start: {_line(error)} ({remedy})", reason="cluster") from error
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "the temporary folder"
        raise UserError(
            f"RAY_TMPDIR: the path {folder} is too long for Ray's sockets (107 bytes); set RAY_TMPDIR to a shorter one"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{where}Ray refuses to start: {_line(error)}") from error
    except (UserError, RunError):
        raise
    except SystemExit as error:  # how Ray ends a driver whose cluster does not answer
        raise RunError(f"{where}no Ray cluster answers", reason="cluster") from error
    except Exception as error:
        if type(error) is not Exception:  # Ray raises plain Exception
            raise
        raise RunError(f"{where}Ray cannot start: {_line(error)}", reason="cluster") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
