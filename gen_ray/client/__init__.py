"""A client of the API that repeats failed requests. It does not depend on the rest of this package.

Sampling is a pure function of the request and its seed, and the client draws the seed before the first attempt.
Therefore a repeated request returns the same samples, whatever the failure was.
"""

import base64
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests

from gen_ray.client.results import (
    ClientPreview,
    ClientResult,
    ClientRows,
    arrays,
    events,
    facts,
    has_rows,
    preview,
    result,
    rows_result,
)
from gen_ray.client.transport import CONNECTION_ERRORS, ApiError, ApiSession, wait_for_retry

__all__ = ["ApiError", "Client", "ClientPreview", "ClientResult", "ClientRows"]


class Client:
    """A client of the API at a URL. Each verb takes the request's fields as keywords; arrays may be NumPy arrays.

    Models of tables have the verbs sample_rows, impute_rows and score_rows.

    The client sets the fields format and stream itself.
    """

    def __init__(self, url: str, key: str | None = None, *, retries: int = 10, timeout: float = 120.0) -> None:
        """Create a client; nothing is sent yet.

        retries is the number of repeated attempts; timeout is the maximum seconds without any data from the server.
        """
        self._session = ApiSession(url, key, retries=retries, timeout=timeout)

    def models(self) -> list[dict[str, Any]]:
        """Return the card of each model. Raise ApiError."""
        listed: list[dict[str, Any]] = self._session.send("GET", "/v1/models").json()["data"]
        return listed

    def sample(self, model: str, *, n: int = 1, **fields: Any) -> ClientResult:
        """Return samples (n, *shape). Raise ApiError."""
        return self._ask(model, "sample", {"n": n, **fields})

    def impute(self, model: str, **fields: Any) -> ClientResult:
        """Return n completions of one instance. Raise ApiError.

        The instance is image (bytes or a Path) or x, with mask; or text.
        """
        return self._ask(model, "impute", fields)

    def score(self, model: str, **fields: Any) -> ClientResult:
        """Return bits_per_dim (N,) and standard_error (N,) of images, x or texts. Raise ApiError."""
        return self._ask(model, "score", fields)

    def encode(self, model: str, **fields: Any) -> ClientResult:
        """Return mu and log_var (N, Z) of images, x or texts. Raise ApiError."""
        return self._ask(model, "encode", fields)

    def decode(self, model: str, *, z: Any, **fields: Any) -> ClientResult:
        """Return samples (N, *shape) decoded from latent vectors z (N, Z). Raise ApiError."""
        return self._ask(model, "decode", {"z": z, **fields})

    def reconstruct(self, model: str, **fields: Any) -> ClientResult:
        """Return reconstructions (N, *shape) of images, x or texts. Raise ApiError."""
        return self._ask(model, "reconstruct", fields)

    def sample_rows(self, model: str, *, n: int = 1, **fields: Any) -> ClientRows:
        """Return n rows of a table's model. Raise ApiError.

        where={column: value, column: "LOW..HIGH", column: "VALUE|VALUE"} are conditions on all rows.
        """
        return self._ask_rows(model, "sample", {"n": n, **fields})

    def impute_rows(self, model: str, **fields: Any) -> ClientRows:
        """Return n completions of rows, dicts of values by column, or of csv, and statistics of the missing cells.

        None, or an absent column, is a missing value. Raise ApiError.
        """
        return self._ask_rows(model, "impute", fields)

    def score_rows(self, model: str, **fields: Any) -> ClientRows:
        """Return the bits of rows or csv, and those of their cells. Raise ApiError."""
        return self._ask_rows(model, "score", fields)

    def picture(self, model: str, verb: str = "sample", **fields: Any) -> bytes:
        """Return the samples of sample, impute, decode or reconstruct as one PNG grid. Raise ApiError."""
        return self._answer(model, verb, fields, "grid").content

    def stream(
        self, model: str, verb: str = "sample", **fields: Any
    ) -> Iterator[ClientPreview | ClientResult | ClientRows]:
        """Yield previews of samples or completions, then the result. Raise ApiError.

        An interrupted stream is requested again; previews that were yielded before are skipped.
        """
        body = _body({**_allowed(fields), "stream": True, "format": "json"})
        retry, yielded = self._session.retry_policy, 0
        while True:
            response = self._session.send("POST", f"/v1/models/{model}/{verb}", body, stream=True)
            try:
                for name, data in events(response.iter_lines()):
                    if name == "result":
                        yield rows_result(data) if has_rows(data) else result(data, arrays(data))
                        return
                    if name == "error":
                        raise ApiError(**data)
                    if data["done"] > yielded:
                        yielded = data["done"]
                        yield preview(data)
                retry = wait_for_retry(retry, None, "the stream broke off")
            except CONNECTION_ERRORS as error:
                retry = wait_for_retry(retry, None, str(error))
            finally:
                response.close()

    def _ask(self, model: str, verb: str, fields: Mapping[str, Any]) -> ClientResult:
        response = self._answer(model, verb, fields, "npz")
        with np.load(io.BytesIO(response.content), allow_pickle=False) as archive:
            return result(facts(response.headers), {name: archive[name] for name in archive.files})

    def _ask_rows(self, model: str, verb: str, fields: Mapping[str, Any]) -> ClientRows:
        return rows_result(self._answer(model, verb, fields, "json").json())

    def _answer(self, model: str, verb: str, fields: Mapping[str, Any], form: str) -> requests.Response:
        body = _body({**_allowed(fields), "format": form})
        return self._session.send("POST", f"/v1/models/{model}/{verb}", body)


def _allowed(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields. Raise ValueError for fields that the client sets itself."""
    for name, instead in OWN.items():
        if name in fields:
            raise ValueError(f"{name}: is set by the client; {instead}")
    return fields


def _body(fields: Mapping[str, Any]) -> str:
    seed = fields.get("seed")
    # also if seed=None was given, because the server would draw a new seed at each attempt
    drawn = secrets.randbelow(2**53) if seed is None else seed
    pictures = {name: _picture(name, fields[name]) for name in PICTURES if fields.get(name) is not None}
    return json.dumps({**fields, **pictures, "seed": drawn}, default=_plain, allow_nan=False)


OWN = {"format": "the verbs return arrays, and picture() returns a PNG", "stream": "stream() yields previews"}
"""Fields that the client sets, and what to use instead."""
PICTURES = ("image", "images", "mask")
"""Fields that accept picture files as bytes, pathlib.Path or base64."""


def _picture(field: str, value: Any) -> Any:
    """Return base64 of bytes and paths. Raise ValueError for a str that is not base64, such as a path."""
    if isinstance(value, list | tuple):
        return [_picture(field, item) for item in value]
    if isinstance(value, os.PathLike):
        return _picture(field, Path(value).read_bytes())
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, str) and not _is_base64(value):
        raise ValueError(f"{field}: {value[:200]!r} is not base64 of a file; give pathlib.Path, or the file's bytes")
    return value


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode("".join(text.split()), validate=True))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} cannot be sent; give numbers, lists, numpy arrays, or bytes of a file")
    return value.tolist()
