"""A client of the API that does not mind if an answer gets lost on the way. Knows nothing else of this package.

Sampling is a pure function of the request and its seed, and the client draws the seed before the first try: so it may
ask again, after whatever went wrong, and gets the samples it would have had.
"""

import base64
import io
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gen_ray.client.results import Preview, Result, arrays, events, facts, preview, result
from gen_ray.client.sending import LOST, ApiError, Sender, once_more

__all__ = ["ApiError", "Client", "Preview", "Result"]


class Client:
    """The API at a URL. Every verb takes the fields of its request as keywords; arrays may be numpy's."""

    def __init__(self, url: str, key: str | None = None, *, retries: int = 8, timeout: float = 120.0) -> None:
        """Keep where the API is; nothing is sent yet. timeout is how many seconds a silence may last."""
        self._sender = Sender(url, key, retries=retries, timeout=timeout)

    def models(self) -> list[dict[str, Any]]:
        """Return what is known of each model. Raise ApiError."""
        listed: list[dict[str, Any]] = self._sender.send("GET", "/v1/models").json()["data"]
        return listed

    def sample(self, model: str, *, n: int = 1, **fields: Any) -> Result:
        """Return n samples. Raise ApiError."""
        return self._ask(model, "sample", {"n": n, **fields})

    def impute(self, model: str, **fields: Any) -> Result:
        """Return n completions of one instance: image (bytes of a file) or x, and mask; or text. Raise ApiError."""
        return self._ask(model, "impute", fields)

    def score(self, model: str, **fields: Any) -> Result:
        """Return bits_per_dim (N,) and standard_error (N,) of images, x or texts. Raise ApiError."""
        return self._ask(model, "score", fields)

    def encode(self, model: str, **fields: Any) -> Result:
        """Return mu and log_var (N, Z) of images, x or texts. Raise ApiError."""
        return self._ask(model, "encode", fields)

    def decode(self, model: str, *, z: Any, **fields: Any) -> Result:
        """Return samples at latent vectors z (N, Z). Raise ApiError."""
        return self._ask(model, "decode", {"z": z, **fields})

    def reconstruct(self, model: str, **fields: Any) -> Result:
        """Return images, x or texts encoded and decoded again. Raise ApiError."""
        return self._ask(model, "reconstruct", fields)

    def stream(self, model: str, verb: str = "sample", **fields: Any) -> Iterator[Preview | Result]:
        """Yield previews of samples, or of completions, and the result at last. Raise ApiError.

        A stream that breaks off is begun anew; previews that were seen are not shown again.
        """
        body, retry, seen = _body({**fields, "stream": True, "format": "json"}), self._sender.patience, 0
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

    def _ask(self, model: str, verb: str, fields: Mapping[str, Any]) -> Result:
        response = self._sender.send("POST", f"/v1/models/{model}/{verb}", _body({**fields, "format": "npz"}))
        with np.load(io.BytesIO(response.content), allow_pickle=False) as held:
            return result(facts(response.headers), {name: held[name] for name in held.files})


def _body(fields: Mapping[str, Any]) -> str:
    return json.dumps({"seed": secrets.randbelow(2**53), **fields}, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.tolist()
