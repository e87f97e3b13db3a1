"""A client of the API that does not mind if an answer gets lost on the way. Knows nothing else of this package.

Sampling is a pure function of the request and its seed, and the client draws the seed before the first try: so it may
ask again, after whatever went wrong, and gets the samples it would have had.
"""

import base64
import io
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
from PIL import Image
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError, ProtocolError

AGAIN = frozenset({429, 500, 502, 503, 504})
POINTLESS = frozenset({"not_finite", "invalid", "too_much"})
"""Codes that the same request would get again."""
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ApiError(Exception):
    """What the API answers when it does not do what it is asked; status 0 where it could not be reached."""

    def __init__(self, status: int, code: str, message: str, request_id: str | None = None) -> None:
        """Keep the status, the word for programs, and the id under which the server's log tells more."""
        super().__init__(f"{message} (code {code}, status {status}, request {request_id or 'unknown'})")
        self.status, self.code, self.message, self.request_id = status, code, message, request_id


@dataclass(frozen=True, kw_only=True)
class Result:
    """An answer: arrays by name, and what the server says of it."""

    arrays: Mapping[str, np.ndarray]
    model: str
    version: str
    sampler: str | None
    steps: int | None
    nfe: int
    seed: int
    queued_seconds: float
    computed_seconds: float
    request_id: str
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> np.ndarray:
        """Return samples (n, *shape), stored integers."""
        return self.arrays["samples"]

    @property
    def texts(self) -> list[str]:
        """Return samples as texts, of a model of texts."""
        return [str(text) for text in self.arrays["texts"]]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A look at samples under way: images (n, H, W[, 3]) uint8, or texts, with done of total evaluations done."""

    done: int
    total: int
    images: np.ndarray | None = None
    texts: list[str] | None = None


class Client:
    """The API at a URL. Every verb takes the fields of its request as keywords; arrays may be numpy's."""

    def __init__(self, url: str, key: str | None = None, *, retries: int = 5, timeout: float = 120.0) -> None:
        """Keep where the API is; nothing is sent yet. timeout is how many seconds a silence may last."""
        self.url, self.timeout = url.rstrip("/"), timeout
        self._retry = Retry(
            retries, allowed_methods=None, backoff_factor=0.1, backoff_max=5, backoff_jitter=0.1, retry_after_max=60
        )
        self._session = requests.Session()
        # a function, for otherwise requests would prefer what a .netrc says of the host
        self._session.auth = lambda request: _with(request, key)

    def models(self) -> list[dict[str, Any]]:
        """Return what is known of each model. Raise ApiError."""
        listed: list[dict[str, Any]] = self._send("GET", "/v1/models").json()["data"]
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
        body, retry, seen = _body({"stream": True, **fields}), self._retry, 0
        while True:
            response = self._send("POST", f"/v1/models/{model}/{verb}", body, stream=True)
            try:
                for name, data in _events(response.iter_lines()):
                    if name == "result":
                        yield _result(data, _arrays(data))
                        return
                    if name == "error":
                        raise ApiError(**data)
                    if data["done"] > seen:
                        seen = data["done"]
                        yield _preview(data)
                retry = _once_more(retry, None, "the stream broke off")
            except LOST as error:
                retry = _once_more(retry, None, str(error))
            finally:
                response.close()

    def _ask(self, model: str, verb: str, fields: Mapping[str, Any]) -> Result:
        response = self._send("POST", f"/v1/models/{model}/{verb}", _body({"format": "npz", **fields}))
        with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
            return _result(_facts(response.headers), {name: arrays[name] for name in arrays.files})

    def _send(self, method: str, path: str, body: str | None = None, *, stream: bool = False) -> requests.Response:
        """Return a good response, read to its end unless it is a stream. Raise ApiError once there is no point."""
        headers, retry = {"Content-Type": "application/json"} if body else {}, self._retry
        while True:
            try:
                response = self._session.request(
                    method,
                    self.url + path,
                    data=body,
                    headers=headers,
                    timeout=self.timeout,
                    stream=stream,
                    allow_redirects=False,
                )
            except LOST as error:
                retry = _once_more(retry, None, str(error))
                continue
            if response.status_code == requests.codes.ok:
                return response
            fault = _fault(response)
            if fault.status not in AGAIN or fault.code in POINTLESS:
                raise fault
            retry = _once_more(retry, response, fault)


def _once_more(retry: Retry, response: requests.Response | None, fault: ApiError | str) -> Retry:
    """Wait as long as the server wants, or ever longer, and return what patience is left. Raise ApiError at its end."""
    try:
        left = retry.increment(error=ProtocolError(str(fault)), method="POST")
    except (MaxRetryError, ProtocolError):
        raise fault if isinstance(fault, ApiError) else ApiError(0, "unreachable", fault) from None
    left.sleep(None if response is None else response.raw)
    return left


def _with(request: requests.PreparedRequest, key: str | None) -> requests.PreparedRequest:
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"
    return request


def _fault(response: requests.Response) -> ApiError:
    try:
        body = response.json()
        return ApiError(response.status_code, body["code"], body["message"], body["request_id"])
    except (ValueError, KeyError, TypeError):  # a proxy's words rather than the API's
        return ApiError(response.status_code, "unknown", response.reason, response.headers.get("X-Request-ID"))


def _body(fields: Mapping[str, Any]) -> str:
    return json.dumps({"seed": secrets.randbelow(2**53), **fields}, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.tolist()


def _facts(headers: Mapping[str, str]) -> dict[str, Any]:
    prefix = "x-genray-"
    told = {name.lower().removeprefix(prefix).replace("-", "_"): value for name, value in headers.items()}
    numbers = ("steps", "nfe", "seed", "queued_seconds", "computed_seconds", "notes")
    facts = {**told, **{name: json.loads(told[name]) for name in numbers}}
    facts["sampler"] = None if told["sampler"] == "null" else told["sampler"]
    facts["seconds"] = {"queued": facts["queued_seconds"], "computed": facts["computed_seconds"]}
    return {**facts, "request_id": headers["X-Request-ID"]}


def _result(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Result:
    named = {name: facts[name] for name in ("model", "version", "sampler", "steps", "nfe", "seed", "notes")}
    seconds, request_id = facts["seconds"], facts["request_id"]
    return Result(
        arrays=arrays,
        queued_seconds=seconds["queued"],
        computed_seconds=seconds["computed"],
        request_id=request_id,
        **named,
    )


def _arrays(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    samples = data["samples"]
    if samples and isinstance(samples[0], str):
        return {"texts": np.array(samples, dtype=np.str_)}
    return {"samples": np.array(samples)}


def _preview(data: Mapping[str, Any]) -> Preview:
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in data.get("images", [])]
    return Preview(
        done=data["done"],
        total=data["total"],
        images=np.stack(images) if images else None,
        texts=data.get("texts"),
    )


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of server-sent events; lines that begin with a colon only say that somebody is there."""
    name = ""
    for line in lines:
        kind, _, value = line.decode().partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)
