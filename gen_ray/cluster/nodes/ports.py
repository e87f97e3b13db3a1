"""Ports of this machine: whether a port is free, and whether a process listens on it."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from gen_ray.errors import UserError, argument

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on


def url(host: str, port: int) -> str:
    """Return a server's URL for a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def own_url(host: str, port: int) -> str:
    """Return the URL at which this machine itself reaches a server that listens on host."""
    return url(ALL_INTERFACES.get(host, host), port)


@contextmanager
def reserve(host: str, port: int, field: str = "port") -> Iterator[None]:
    """Reserve a port for a server that binds with SO_REUSEPORT. Raise UserError if it is in use.

    Ray Serve's proxy binds so: a second server on the same port would receive half of the first one's requests. The
    socket here is bound but does not listen: it receives no connections, and other commands cannot use the port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            bound.bind((host, port))
        except OSError as error:
            raise _unusable(host, port, field, error) from None
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield


def check(host: str, port: int, field: str = "port") -> None:
    """Raise UserError if a port is in use or cannot be listened on. field: the name of the argument that gives it."""
    with reserve(host, port, field):
        pass


def _unusable(host: str, port: int, field: str, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        line = f"another server listens at {own_url(host, port)}; end it, or name another port"
        return UserError(line, field=field, value=port)
    line = f"cannot be listened on with {argument(field, port)} ({error.strerror}); name an address of this machine"
    return UserError(line, field="host", value=host)


def listens(pid: int, port: int) -> bool:
    """Return whether a process or one of its children listens on a port."""
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                connections = process.net_connections("tcp")
                if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
                    return True
    return False
