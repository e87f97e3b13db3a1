"""HTTP requests with retries."""

import ipaddress
from typing import Self
from urllib.parse import urlsplit

import requests
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError, ProtocolError

RETRIED_STATUSES = frozenset({429, 499, 500, 502, 503, 504})
"""499 too: where a machine is lost, Serve can take a client that waits for one that has left."""
PERMANENT_CODES = frozenset({"not_finite", "invalid", "too_much"})
"""Error codes for which a retry would fail in the same way."""
CONNECTION_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ApiError(Exception):
    """An error response of the API; status 0 if the server could not be reached."""

    def __init__(self, status: int, code: str, message: str, request_id: str | None = None) -> None:
        """Keep the HTTP status, the error code, the message, and the request id of the server's log."""
        super().__init__(f"{message} (code {code}, status {status}, request {request_id or 'unknown'})")
        self.status, self.code, self.message, self.request_id = status, code, message, request_id

    def __reduce__(self) -> tuple[type[Self], tuple[int, str, str, str | None]]:
        """Return the arguments of __init__ for pickle, which otherwise passes only the message."""
        return type(self), (self.status, self.code, self.message, self.request_id)


class ApiSession:
    """An HTTP session with the API at a URL."""

    def __init__(self, url: str, key: str | None, *, retries: int, timeout: float) -> None:
        """Create a session; nothing is sent yet. timeout is in seconds."""
        self.url, self.timeout = url.rstrip("/"), timeout
        self.retry_policy = Retry(
            retries, allowed_methods=None, backoff_factor=0.1, backoff_max=5, backoff_jitter=0.1, retry_after_max=60
        )
        self._session = requests.Session()
        # "" instead of None, which requests would replace by the environment's proxy
        self._proxies = dict.fromkeys(("http", "https"), "") if _is_this_machine(url) else None
        # a function, because otherwise requests would prefer the host's entry in .netrc
        self._session.auth = lambda request: _with(request, key)

    def send(self, method: str, path: str, body: str | None = None, *, stream: bool = False) -> requests.Response:
        """Return a successful response, read completely unless it is a stream.

        Raise ApiError for a permanent error, or when the retries are used up.
        """
        retry = self.retry_policy
        while True:
            try:
                response = self._once(method, path, body, stream)
            except CONNECTION_ERRORS as error:
                retry = wait_for_retry(retry, None, str(error))
                continue
            if response.status_code == requests.codes.ok:
                return response
            fault = _fault(response)
            if fault.status not in RETRIED_STATUSES or fault.code in PERMANENT_CODES:
                raise fault
            retry = wait_for_retry(retry, response, fault)

    def _once(self, method: str, path: str, body: str | None, stream: bool) -> requests.Response:
        response = self._session.request(
            method,
            self.url + path,
            data=body,
            headers={"Content-Type": "application/json"} if body else {},
            timeout=self.timeout,
            stream=stream,
            allow_redirects=False,
            proxies=self._proxies,
        )
        if response.status_code == requests.codes.ok and "X-Request-ID" not in response.headers:
            # Python accepts an incomplete head as complete, with an empty body
            raise requests.ConnectionError(
                "the response has no X-Request-ID: it was cut off, or comes from another server"
            )
        return response


def _is_this_machine(url: str) -> bool:
    """Return whether a URL names this machine. A proxy would resolve such a name to itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def wait_for_retry(retry: Retry, response: requests.Response | None, fault: ApiError | str) -> Retry:
    """Wait, and return the remaining retries. Raise ApiError if none is left.

    The time is that of Retry-After, or increases with each attempt.
    """
    try:
        remaining = retry.increment(error=ProtocolError(str(fault)), method="POST")
    except (MaxRetryError, ProtocolError):
        raise fault if isinstance(fault, ApiError) else ApiError(0, "unreachable", fault) from None
    remaining.sleep(None if response is None else response.raw)
    return remaining


def _with(request: requests.PreparedRequest, key: str | None) -> requests.PreparedRequest:
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"
    return request


def _fault(response: requests.Response) -> ApiError:
    try:
        body = response.json()
        return ApiError(response.status_code, body["code"], body["message"], body["request_id"])
    except (ValueError, KeyError, TypeError):  # the body is from a proxy, not from the API
        return ApiError(response.status_code, "unknown", response.reason, response.headers.get("X-Request-ID"))
