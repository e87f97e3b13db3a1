"""How the door is set up: who may come in, under which names the house is known, and how much one may carry."""

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
"""Characters of a key: fewer can be guessed."""
MIB = 2**20


@dataclass(frozen=True)
class ApiKey:
    """A named key, of which only the SHA-256 is kept: nothing that is printed or sent on gives it away."""

    name: str
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, secret: str) -> "ApiKey":
        """Return the key that a secret opens."""
        return cls(name, hashlib.sha256(secret.encode()).digest())


def host_name(value: str) -> str:
    """Return a host as the Host header has it: in lower case, an IPv6 address in brackets. Raise ValueError."""
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
    """Return hosts as the Host header has them. Raise UserError naming the source and the value."""
    found = []
    for value in values:
        try:
            found.append(host_name(value))
        except ValueError as error:
            raise UserError(f"{source} {value!r}: {error}") from None
    return tuple(found)


Host = Annotated[str, AfterValidator(host_name)]


class ApiSettings(Config):
    """Everything about the door that is not a model's own affair."""

    keys: tuple[ApiKey, ...] = ()
    """Without a key the door is open to whoever reaches it."""
    hosts: tuple[Host, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names in the Host header that are this house's; a page of another name must not reach it through a browser."""
    origins: tuple[str, ...] = ()
    """Further pages that may change things here, as scheme://host:port, besides those of the same host."""
    body_bytes: int = Field(default=MIB, ge=1, le=2**40)
    body_seconds: float = Field(default=30.0, gt=0, le=LONGEST_SECONDS)
    """How long a body may take to come in."""
    open_body_seconds: float = Field(default=3.0, gt=0, le=LONGEST_SECONDS)
    """The same for a request without a key."""
    requests_at_once: int = Field(default=128, ge=1, le=100_000)
    """At one ingress, divided among the keys; health checks are not counted."""
    picture_pixels: int = Field(default=4_000_000, ge=1, le=10**12)
    """Of all pictures of one request together."""
    deadline_seconds: float = Field(default=60.0, gt=0, le=LONGEST_SECONDS)
    """What a request gets that asks for none."""
    longest_deadline_seconds: float = Field(default=600.0, gt=0, le=LONGEST_SECONDS)
    card_seconds: float = Field(default=5.0, gt=0, le=LONGEST_SECONDS)
    """How long a model may take to say what it is."""
    keep_alive_seconds: float = Field(default=5.0, gt=0, le=LONGEST_SECONDS)
    """After how long a silence a stream says that it lives."""


def from_environment(environment: Mapping[str, str], **changed: object) -> ApiSettings:
    """Return settings with the keys and further hosts of an environment. Raise UserError naming the variable."""
    further = host_names((host for host in environment.get(HOSTS, "").split(",") if host.strip()), HOSTS)
    own = ApiSettings.model_fields["hosts"].default
    if KEYS in environment and not environment[KEYS].strip():
        raise UserError(f"{KEYS}: is set but empty; name keys (name:key,name:key), or unset it")
    return ApiSettings.model_validate({"keys": keys(environment.get(KEYS, "")), "hosts": (*own, *further), **changed})


def keys(listed: str) -> tuple[ApiKey, ...]:
    """Return the keys of a list ``name:key,name:key``. Raise UserError, which never says a key itself."""
    found = tuple(_key(entry, place) for place, entry in enumerate(listed.split(","), 1)) if listed.strip() else ()
    twice = [name for name, times in Counter(key.name for key in found).items() if times > 1]
    if twice:
        raise UserError(f"{KEYS}: names {twice[0]!r} twice; give every key a name of its own")
    return found


def key_name(presented: str, known: tuple[ApiKey, ...]) -> str | None:
    """Return the name of the key presented, or None. Takes the same time whichever it is, or none."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
    names = [key.name for key in known if hmac.compare_digest(key.digest, digest)]
    return names[0] if names else None


def _key(entry: str, place: int) -> ApiKey:
    name, colon, secret = entry.strip().partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise UserError(f"{KEYS}: entry {place} is not name:key (a name has letters, digits, '.', '_' and '-')")
    if len(secret) < SHORTEST:
        raise UserError(f"{KEYS}: the key of {name!r} has fewer than {SHORTEST} characters; `openssl rand -hex 32`")
    if not re.fullmatch(r"[!-~]+", secret):
        raise UserError(f"{KEYS}: the key of {name!r} must be printable ASCII without spaces")
    return ApiKey.of(name, secret)
