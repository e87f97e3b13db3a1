"""A simulated second device on the CPU: same results as the CPU, and like a GPU it refuses tensors of the CPU.

Its tensors report the device meta, the only other device in every build of torch, and hold tensors of the CPU.
An operation on one of them and a CPU tensor with dimensions raises MixedError, like a RuntimeError on a GPU. The
same happens if a generator draws on another device than its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

Op = Callable[..., Any]
SECOND_DEVICE = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class MixedError(Exception):
    """An operation used tensors of two devices, or a generator and a tensor of two devices."""


def played(op: Op, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    """Return the result of op, computed on the CPU, as a tensor of the device that it would have."""
    kwargs = kwargs or {}
    tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)]
    on_second = [part for part in tensors if isinstance(part, SecondDeviceTensor)]
    on_cpu = [part for part in tensors if not isinstance(part, SecondDeviceTensor) and part.ndim]
    if on_second and on_cpu and op not in COPIES and not _indexed(op, args):
        raise MixedError(f"{op}: {[tuple(x.shape) for x in on_second]} there, {[tuple(x.shape) for x in on_cpu]} here")
    devices = [part for part in tree_iter((args, kwargs)) if isinstance(part, torch.device)]
    away = SECOND_DEVICE in devices if devices else bool(on_second)
    out = op(*tree_map(_unwrapped, args), **tree_map(_unwrapped, kwargs))
    if op is torch.ops.aten.copy_.default:
        return args[0]
    if not away:
        return out
    own = {id(part.cpu_tensor): part for part in on_second}  # an in-place result, or the same tensor
    return tree_map(lambda part: own.get(id(part), SecondDeviceTensor(part)) if isinstance(part, Tensor) else part, out)


def _indexed(op: Op, args: Sequence[Any]) -> bool:
    """Return whether a tensor of the device is indexed by CPU integers, which a GPU also allows."""
    return op.overloadpacket is torch.ops.aten.index and isinstance(args[0], SecondDeviceTensor)


def _unwrapped(part: Any) -> Any:
    if isinstance(part, SecondDeviceTensor):
        return part.cpu_tensor
    return torch.device("cpu") if isinstance(part, torch.device) else part


class SecondDeviceTensor(Tensor):
    """A tensor of the other device."""

    cpu_tensor: Tensor

    @staticmethod
    def __new__(cls, tensor: Tensor) -> "SecondDeviceTensor":
        made = Tensor._make_wrapper_subclass(
            cls, tensor.shape, strides=tensor.stride(), storage_offset=tensor.storage_offset(), dtype=tensor.dtype,
            device=SECOND_DEVICE, requires_grad=tensor.requires_grad,
        )  # fmt: skip
        made.cpu_tensor = tensor
        return made

    def __repr__(self) -> str:
        return f"SecondDeviceTensor({self.cpu_tensor!r})"

    def tolist(self) -> Any:
        return self.cpu_tensor.tolist()

    __torch_dispatch__ = staticmethod(played)


class SecondDeviceMode(TorchDispatchMode):
    """Creates tensors on the simulated device for operations that only name the device."""

    def __torch_dispatch__(self, *call: Any) -> Any:
        return played(*call)


def _as_data(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(data: Any, *, device: torch.device | str = "cpu", **how: Any) -> Tensor:
        return make(data, **how).to(device)

    return made


class Generator(torch.Generator):
    """A generator of the CPU that remembers for which device it was made."""

    made_for: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.made_for = torch.device(device)
        return made


class Drawing(TorchFunctionMode):
    """Raises MixedError if a generator draws on another device than its own."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for generator in [part for part in (*args, *(kwargs or {}).values()) if isinstance(part, torch.Generator)]:
            device = getattr(generator, "made_for", torch.device("cpu"))
            if isinstance(out, Tensor) and out.device.type != device.type:
                raise MixedError(f"{func}: a generator of {device} draws on {out.device}")
        return out


@contextmanager
def second_device() -> Iterator[None]:
    """Enable the simulated device, including for code that bypasses dispatch modes."""
    autocast = torch.autocast

    def by_name(device_type: str, **how: Any) -> torch.autocast:
        return autocast("cpu" if device_type == SECOND_DEVICE.type else device_type, **how)

    made = {"tensor": _as_data(torch.tensor), "as_tensor": _as_data(torch.as_tensor)}
    with patch.multiple(torch, autocast=by_name, Generator=Generator, **made), SecondDeviceMode(), Drawing():
        yield
