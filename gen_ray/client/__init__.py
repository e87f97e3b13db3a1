"""A client of the API that does not mind if an answer gets lost on the way. Knows nothing else of this package.

Sampling is a pure function of the request and its seed, and the client draws the seed before the first try: so it may
ask again, after whatever went wrong, and gets the samples it would have had.
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

from gen_ray.client.results import ClientPreview, ClientResult, arrays, events, facts, preview, result
from gen_ray.client.sending import LOST, ApiError, Sender, once_more

__all__ = ["ApiError", "Client", "ClientPreview", "ClientResult"]


class Client:
    """The API at a URL. Every verb takes the fields of its request as keywords; arrays may be numpy's.

    The client itself sets the fields format and stream.
    """

    def __init__(self, url: str, key: str | None = None, *, retries: int = 8, timeout: float = 120.0) -> None:
        """Keep where the API is; nothing is sent yet. timeout is how many seconds a silence may last."""
        self._sender = Sender(url, key, retries=retries, timeout=timeout)

    def models(self) -> list[dict[str, Any]]:
        """Return what is known of each model. Raise ApiError."""
        listed: list[dict[str, Any]] = self._sender.send("GET", "/v1/models").json()["data"]
        return listed

    def sample(self, model: str, *, n: int = 1, **fields: Any) -> ClientResult:
        """Return n samples. Raise ApiError."""
        return self._ask(model, "sample", {"n": n, **fields})

    def impute(self, model: str, **fields: Any) -> ClientResult:
        """Return n completions of one instance: image (bytes or a Path) or x, and mask; or text. Raise ApiError."""
        return self._ask(model, "impute", fields)

    def score(self, model: str, **fields: Any) -> ClientResult:
        """Return bits_per_dim (N,) and standard_error (N,) of images, x or texts. Raise ApiError."""
        return self._ask(model, "score", fields)

    def encode(self, model: str, **fields: Any) -> ClientResult:
        """Return mu and log_var (N, Z) of images, x or texts. Raise ApiError."""
        return self._ask(model, "encode", fields)

    def decode(self, model: str, *, z: Any, **fields: Any) -> ClientResult:
        """Return samples at latent vectors z (N, Z). Raise ApiError."""
        return self._ask(model, "decode", {"z": z, **fields})

    def reconstruct(self, model: str, **fields: Any) -> ClientResult:
        """Return images, x or texts encoded and decoded again. Raise ApiError."""
        return self._ask(model, "reconstruct", fields)

    def picture(self, model: str, verb: str = "sample", **fields: Any) -> bytes:
        """Return the samples of sample, impute, decode or reconstruct side by side as a PNG file. Raise ApiError."""
        return self._answer(model, verb, fields, "grid").content

    def stream(self, model: str, verb: str = "sample", **fields: Any) -> Iterator[ClientPreview | ClientResult]:
        """Yield previews of samples, or of completions, and the result at last. Raise ApiError.

        A stream that breaks off is begun anew; previews that were seen are not shown again.
        """
        body, retry, seen = _body({**_allowed(fields), "stream": True, "format": "json"}), self._sender.patience, 0
        while True:
            response = self._sender.send("POST", f"/v1/models/{model}/{verb}", body, stream=True)
            try:
                for name, data in events(response.iter_lines()):
                    if name == "result":
                        yield result(data, arrays(data))
                        return
                    if name == "error":
                        raise ApiError(**data)
                    if data["done"] > seen:
                        seen = data["done"]
                        yield preview(data)
                retry = once_more(retry, None, "the stream broke off")
            except LOST as error:
                retry = once_more(retry, None, str(error))
            finally:
                response.close()

    def _ask(self, model: str, verb: str, fields: Mapping[str, Any]) -> ClientResult:
        response = self._answer(model, verb, fields, "npz")
        with np.load(io.BytesIO(response.content), allow_pickle=False) as held:
            return result(facts(response.headers), {name: held[name] for name in held.files})

    def _answer(self, model: str, verb: str, fields: Mapping[str, Any], form: str) -> requests.Response:
        body = _body({**_allowed(fields), "format": form})
        return self._sender.send("POST", f"/v1/models/{model}/{verb}", body)


def _allowed(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields. Raise ValueError for those that would have no effect because the client sets them."""
    for name, instead in OWN.items():
        if name in fields:
            raise ValueError(f"{name}: is set by the client; {instead}")
    return fields


def _body(fields: Mapping[str, Any]) -> str:
    seed = fields.get("seed")
    drawn = secrets.randbelow(2**53) if seed is None else seed  # None too: the server would draw another at each try
    pictures = {name: _picture(name, fields[name]) for name in PICTURES if fields.get(name) is not None}
    return json.dumps({**fields, **pictures, "seed": drawn}, default=_plain, allow_nan=False)


OWN = {"format": "the verbs return arrays, and picture() returns a PNG", "stream": "stream() yields previews"}
"""Fields that the client sets, and what to use instead."""
PICTURES = ("image", "images", "mask")
"""Fields that may hold files of pictures, as bytes, pathlib.Path or base64."""


def _picture(field: str, value: Any) -> Any:
    """Return base64 for bytes and paths. Raise ValueError for a text that is not base64: such as a path in a str."""
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
