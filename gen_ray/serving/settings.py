"""Settings of the API: keys, accepted host names and origins, limits on requests and times."""

import hashlib
import hmac
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field

from gen_ray.configuration.base import LONGEST_SECONDS, Config
from gen_ray.errors import UserError

KEYS = "GEN_RAY_API_KEYS"
HOSTS = "GEN_RAY_ALLOWED_HOSTS"
SHORTEST = 16
"""Minimum characters of a key; shorter keys can be guessed."""
MIB = 2**20


@dataclass(frozen=True)
class ApiKey:
    """A named API key. Only its SHA-256 is stored, so that printing or sending it does not reveal the key."""

    name: str
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, secret: str) -> "ApiKey":
        """Return the named key of a secret."""
        return cls(name, hashlib.sha256(secret.encode()).digest())


def host_name(value: str) -> str:
    """Return a host in the form of the Host header: lower case, IPv6 addresses in brackets. Raise ValueError."""
    text = value.strip().rstrip(".")
    with suppress(ValueError):
        address = ipaddress.ip_address(text.strip("[]"))
        return f"[{address}]" if address.version == 6 else str(address)
    try:
        text = text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        text = ""
    if not re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:\d{1,5})?", text.lower()):
        raise ValueError("must be a host such as models.example.org; with :PORT only that port is accepted")
    return text.lower()


def host_names(values: Iterable[str], source: str) -> tuple[str, ...]:
    """Return hosts in the form of the Host header. Raise UserError with the source and the value."""
    hosts = []
    for value in values:
        try:
            hosts.append(host_name(value))
        except ValueError as error:
            raise UserError(f"{source} {value!r}: {error}") from None
    return tuple(hosts)


Host = Annotated[str, AfterValidator(host_name)]


class ApiSettings(Config):
    """Settings that do not depend on the model."""

    keys: tuple[ApiKey, ...] = ()
    """API keys. Without any, the API is open to every client that can reach it."""
    hosts: tuple[Host, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Accepted names in the Host header. They protect against pages of other sites in a browser (DNS rebinding)."""
    origins: tuple[str, ...] = ()
    """Origins (scheme://host:port) that may send changing requests, besides pages of the same host."""
    body_bytes: int = Field(default=MIB, ge=1, le=2**40)
    body_seconds: float = Field(default=30.0, gt=0, le=LONGEST_SECONDS)
    """Maximum seconds for receiving a body."""
    open_body_seconds: float = Field(default=3.0, gt=0, le=LONGEST_SECONDS)
    """The same for requests without a key."""
    requests_at_once: int = Field(default=128, ge=1, le=100_000)
    """Maximum concurrent requests at one ingress, divided among the keys; health checks are not counted."""
    picture_pixels: int = Field(default=4_000_000, ge=1, le=10**12)
    """Maximum pixels of all pictures of one request together."""
    deadline_seconds: float = Field(default=60.0, gt=0, le=LONGEST_SECONDS)
    """Default deadline of a request."""
    longest_deadline_seconds: float = Field(default=600.0, gt=0, le=LONGEST_SECONDS)
    card_seconds: float = Field(default=5.0, gt=0, le=LONGEST_SECONDS)
    """Maximum seconds to wait for a model's card."""
    keep_alive_seconds: float = Field(default=5.0, gt=0, le=LONGEST_SECONDS)
    """Seconds without an event after which a stream sends a heartbeat."""


def from_environment(environment: Mapping[str, str], **changed: object) -> ApiSettings:
    """Return settings with the keys and hosts of environment variables. Raise UserError with the variable's name."""
    further = host_names((host for host in environment.get(HOSTS, "").split(",") if host.strip()), HOSTS)
    own = ApiSettings.model_fields["hosts"].default
    if KEYS in environment and not environment[KEYS].strip():
        raise UserError(f"{KEYS}: is set but empty; set it to name:key,name:key, or unset it")
    return ApiSettings.model_validate({"keys": keys(environment.get(KEYS, "")), "hosts": (*own, *further), **changed})


def keys(listed: str) -> tuple[ApiKey, ...]:
    """Parse keys ``name:key,name:key``. Raise UserError; its message never contains a key."""
    parsed = tuple(_key(entry, i) for i, entry in enumerate(listed.split(","), 1)) if listed.strip() else ()
    twice = [name for name, times in Counter(key.name for key in parsed).items() if times > 1]
    if twice:
        raise UserError(f"{KEYS}: has the name {twice[0]!r} twice; give each key a different name")
    return parsed


def key_name(presented: str, known: tuple[ApiKey, ...]) -> str | None:
    """Return the name of a presented key, or None. The comparison takes constant time."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
    names = [key.name for key in known if hmac.compare_digest(key.digest, digest)]
    return names[0] if names else None


def _key(entry: str, position: int) -> ApiKey:
    name, colon, secret = entry.strip().partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise UserError(f"{KEYS}: entry {position} is not name:key (a name has letters, digits, '.', '_' and '-')")
    if len(secret) < SHORTEST:
        raise UserError(f"{KEYS}: the key of {name!r} has fewer than {SHORTEST} characters; `openssl rand -hex 32`")
    if not re.fullmatch(r"[!-~]+", secret):
        raise UserError(f"{KEYS}: the key of {name!r} must be printable ASCII without spaces")
    return ApiKey.of(name, secret)
