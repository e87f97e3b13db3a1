"""Requests that are sent again until they are answered, as long as there is patience left."""

import ipaddress
from urllib.parse import urlsplit

import requests
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError, ProtocolError

AGAIN = frozenset({429, 499, 500, 502, 503, 504})
"""499 too: where a machine is lost, Serve can take a client that waits for one that has left."""
POINTLESS = frozenset({"not_finite", "invalid", "too_much"})
"""Codes that the same request would get again."""
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ApiError(Exception):
    """What the API answers when it does not do what it is asked; status 0 where it could not be reached."""

    def __init__(self, status: int, code: str, message: str, request_id: str | None = None) -> None:
        """Keep the status, the word for programs, and the id under which the server's log tells more."""
        super().__init__(f"{message} (code {code}, status {status}, request {request_id or 'unknown'})")
        self.status, self.code, self.message, self.request_id = status, code, message, request_id


class Sender:
    """A session with the API at a URL."""

    def __init__(self, url: str, key: str | None, *, retries: int, timeout: float) -> None:
        """Keep where the API is; nothing is sent yet."""
        self.url, self.timeout = url.rstrip("/"), timeout
        self.patience = Retry(
            retries, allowed_methods=None, backoff_factor=0.1, backoff_max=5, backoff_jitter=0.1, retry_after_max=60
        )
        self._session = requests.Session()
        # "" and not None, which requests would replace by the environment's proxy
        self._proxies = dict.fromkeys(("http", "https"), "") if _is_this_machine(url) else None
        # a function, for otherwise requests would prefer what a .netrc says of the host
        self._session.auth = lambda request: _with(request, key)

    def send(self, method: str, path: str, body: str | None = None, *, stream: bool = False) -> requests.Response:
        """Return a good response, read to its end unless it is a stream. Raise ApiError once there is no point."""
        retry = self.patience
        while True:
            try:
                response = self._once(method, path, body, stream)
            except LOST as error:
                retry = once_more(retry, None, str(error))
                continue
            if response.status_code == requests.codes.ok:
                return response
            fault = _fault(response)
            if fault.status not in AGAIN or fault.code in POINTLESS:
                raise fault
            retry = once_more(retry, response, fault)

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
            # Python takes a head that breaks off for a whole one, with nothing after it
            raise requests.ConnectionError("the answer broke off in its head, or another server gave it")
        return response


def _is_this_machine(url: str) -> bool:
    """Return whether a URL names this machine, which a proxy would take for itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def once_more(retry: Retry, response: requests.Response | None, fault: ApiError | str) -> Retry:
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
