"""Conditional writes: a small text file is replaced only if it still holds what its reader saw."""

from pathlib import Path
from typing import Any

from filelock import FileLock

from gen_ray.storage import paths

CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
"""S3's error codes for a conditional write after the object has changed."""


def replace(file: Path, before: str | None, after: str) -> bool:
    """Write after into file if the file holds before (None: if it does not exist). Return whether it was written.

    This is atomic in folders and on stores with S3's conditional writes. On other object stores a concurrent writer can
    overwrite the file; a later write by the same process must therefore read first. Raise OSError.
    """
    if paths.is_remote(file):
        with paths.as_os_errors(file):
            return _put(file, before, after)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if read(file) != before:
            return False
        paths.write_atomic(file, after)
        return True


def read(file: Path) -> str | None:
    """Return the file's text, None if the file does not exist. Bytes that are not UTF-8 become surrogates."""
    try:
        content = paths.read_object(file) if paths.is_remote(file) else file.read_bytes()
    except FileNotFoundError:
        return None
    return content.decode("utf-8", "surrogateescape")


def _put(file: Path, before: str | None, after: str) -> bool:
    client, path = paths.remote(file)
    if not hasattr(client, "call_s3"):
        return _put_elsewhere(client, path, file, before, after)
    bucket, key, _ = client.split_path(path)
    condition: dict[str, str] = {"IfNoneMatch": "*"}
    if before is not None:
        try:
            found = client.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return False
        if read(file) != before:
            return False
        condition = {"IfMatch": found["ETag"]}
    try:
        client.call_s3("put_object", Bucket=bucket, Key=key, Body=after.encode(), **condition)
    except OSError as error:
        if _code(error) in CONFLICTS or isinstance(error, FileExistsError):
            return False
        if _code(error) != "NotImplemented":
            raise
        if read(file) != before:
            return False
        file.write_text(after, encoding="utf-8")
    return True


def _put_elsewhere(client: Any, path: str, file: Path, before: str | None, after: str) -> bool:
    """Replace a file on a store other than S3. Creation is exclusive if fsspec's client supports it."""
    if read(file) != before:
        return False
    if before is None:
        try:
            client.pipe_file(path, after.encode(), mode="create")
        except FileExistsError:
            return False
        return True
    file.write_text(after, encoding="utf-8")
    return True


def _code(error: BaseException) -> str:
    """Return the code of the botocore error that caused an error of s3fs, or an empty text."""
    answer: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))
