"""Laws of all error classes of the project."""

import importlib
import inspect
import pickle
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gen_ray
import pipelines
from gen_ray.serving.service import ErrorReply

VALUES = {
    str: "a word",
    int: 3,
    float: 2.5,
    bool: True,
    object: "an object",
    Path: Path("folder/file"),
    ErrorReply: ErrorReply(status=429, code="busy", message="wait", retry_after_seconds=2.0),
}
"""A value for an argument of each type; none is the default of an argument."""


def import_all() -> None:
    for package in (gen_ray, pipelines):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)


def descendants(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for child in type.__subclasses__(kind):
        yield child
        yield from descendants(child)


def error_classes() -> list[type[BaseException]]:
    import_all()
    own = {kind for kind in descendants(BaseException) if kind.__module__.split(".")[0] in ("gen_ray", "pipelines")}
    return sorted(own, key=lambda kind: (kind.__module__, kind.__qualname__))


def made(kind: type[BaseException]) -> BaseException:
    """Return an error of a class, with a value for every argument of its ``__init__``."""
    if kind.__init__ in (Exception.__init__, BaseException.__init__, ValueError.__init__):
        return kind("a message")
    hints = typing.get_type_hints(kind.__init__)
    named: dict[str, Any] = {}
    for name in list(inspect.signature(kind.__init__).parameters)[1:]:
        wanted = [hint for hint in (hints[name], *typing.get_args(hints[name])) if hint in VALUES]
        named[name] = VALUES[wanted[0]]
    return kind(**named)


@pytest.mark.slow
def test_every_error_keeps_its_message_and_its_attributes_when_it_crosses_a_process() -> None:
    kinds = error_classes()
    names = {kind.__name__ for kind in kinds}
    assert {"UserError", "InstanceError", "DataError", "BusyError", "RequestRefusedError", "ApiError"} <= names
    for kind in kinds:
        error = made(kind)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            copy = pickle.loads(pickle.dumps(error, protocol))
            assert type(copy) is kind and str(copy) == str(error), kind
            assert copy.args == error.args and vars(copy) == vars(error), kind
