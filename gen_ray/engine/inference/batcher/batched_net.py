"""One forward for equal network calls: those of the sampling stepper, and those of auxiliary tasks in other threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gen_ray.engine.inference.batcher.requests import RequestHandle
from gen_ray.maths.column_stepper import PredictsColumns

Output = Tensor | tuple[Tensor, ...]
FORWARD, HIDDEN = "forward", "hidden"
JOINING = (FORWARD, HIDDEN)
"""The methods whose calls share the evaluation of a hidden state."""


@dataclass(eq=False, kw_only=True)
class NetCall:
    """A network call of an auxiliary task, which waits for the output; its rows may be served in several parts."""

    handle: RequestHandle
    method: str
    args: tuple[Tensor, ...]
    reduced_precision: bool
    """Whether to use the model's reduced precision, as samples do; likelihoods do not."""
    padded: bool = False
    output: Future[Output] = field(default_factory=Future)
    parts: list[Output] = field(default_factory=list)
    served: int = 0

    @property
    def rows_left(self) -> int:
        """Return the number of rows still to be served."""
        return len(self.args[0]) - self.served

    def fits(self, method: str, args: tuple[Tensor, ...], reduced_precision: bool) -> bool:
        """Return whether the rows of args (N, …) can be appended to this call: same method, shapes and dtypes."""
        return (
            (method, len(args), reduced_precision) == (self.method, len(self.args), self.reduced_precision)
            and not self.padded
            and all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(args, self.args, strict=True))
        )

    def next_args(self, rows: int) -> tuple[Tensor, ...]:
        """Return the arguments of the next rows (N, …), N ≤ rows."""
        return tuple(arg[self.served : self.served + rows] for arg in self.args)

    def add_part(self, part: Output) -> None:
        """Append the network's output for the next rows; after the last ones, set the output."""
        self.handle.begin()
        self.served += len(part[0] if isinstance(part, tuple) else part)
        self.parts.append(
            tuple(map(without_inference_mode, part)) if isinstance(part, tuple) else without_inference_mode(part)
        )
        if not self.rows_left:
            self.output.set_result(_join_parts(self.parts))


@dataclass(eq=False, kw_only=True)
class GradientTurn:
    """An auxiliary task's wait for permission to evaluate the network itself; it ends with the next network call."""

    handle: RequestHandle
    rows: int
    granted: Future[None] = field(default_factory=Future)
    ended: bool = False


class BatchingNet:
    """The network as the sampling stepper calls it; rows of matching calls of auxiliary tasks join its forward."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap net; no calls join yet."""
        self._net = net
        self.padded_rows: int | None = None
        """Rows of every padded evaluation of this tick; None where evaluations are not padded."""
        self.joined: list[tuple[NetCall, int]] = []
        """Calls with their number of rows to join a matching forward; a call that has joined is removed."""

    def __call__(self, *args: Tensor) -> Any:
        """Return net(*args)."""
        return self._evaluate(FORWARD, args)

    def encode(self, *args: Tensor) -> Any:
        """Return net.encode(*args), for a network that has it."""
        return self._evaluate("encode", args)

    def decode(self, *args: Tensor) -> Any:
        """Return net.decode(*args), for a network that has it."""
        return self._evaluate("decode", args)

    def _evaluate(self, method: str, args: tuple[Tensor, ...]) -> Output:
        fitting = [(call, rows) for call, rows in self.joined if call.fits(method, args, True)]
        parts = [args, *(call.next_args(rows) for call, rows in fitting)]
        out = evaluate(self._net, method, tuple(map(_cat, zip(*parts, strict=True))))
        self.joined = [pair for pair in self.joined if pair not in fitting]
        own, *others = _split(out, [len(part[0]) for part in parts])
        for (call, _), part in zip(fitting, others, strict=True):
            call.add_part(part)
        return own


class BatchingColumnsNet(BatchingNet):
    """A network that predicts single columns (``PredictsColumns``), as the sampling stepper calls it.

    The stepper needs logits only of the columns that its rows reveal. Rows of joining calls, which need all logits,
    share the evaluation of the hidden state. On 15 columns with width 512, requests for one row with 30 % of its cells
    missing take a third of the time of computing all logits in every tick.
    """

    def __init__(self, net: nn.Module, columns: PredictsColumns) -> None:
        """Wrap net, which is also given as columns."""
        super().__init__(net)
        self._columns = columns

    def hidden(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the hidden state (B, F), and serve the joining calls."""
        whole, shared = ([pair for pair in self.joined if pair[0].fits(name, (x, t), True)] for name in JOINING)
        fitting = [*whole, *shared]
        self.joined = [pair for pair in self.joined if pair not in fitting]
        parts = [(x, t), *(call.next_args(rows) for call, rows in fitting)]
        args, rows = map(_cat, zip(*parts, strict=True)), [len(part[0]) for part in parts]
        hidden = _tensor(evaluate(self._net, HIDDEN, tuple(map(self._padded, args))))[: sum(rows)]
        own, *others = _split(hidden, rows)
        if whole:
            logits = self._columns.logits(torch.cat([_tensor(part) for part in others[: len(whole)]]))
            others[: len(whole)] = _split(logits, [len(part) for part in others[: len(whole)]])
        for (call, _), part in zip(fitting, others, strict=True):
            call.add_part(part)
        return _tensor(own)

    def column(self, hidden: Tensor, d: int) -> Tensor:
        """Return the logits (B, K_d) of column d."""
        return self._columns.column(self._padded(hidden), d)[: len(hidden)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, D, K) of all columns."""
        return self._columns.logits(hidden)

    def _padded(self, rows: Tensor) -> Tensor:
        """Return rows (B, …), padded to the number of rows of a padded evaluation, or to an allowed number."""
        more = (self.padded_rows or rounded_rows(len(rows))) - len(rows)
        return torch.cat([rows, rows[-1:].expand(more, *rows.shape[1:])]) if more > 0 else rows


def batching_net(net: nn.Module) -> BatchingNet:
    """Return the network as the sampling stepper calls it."""
    return BatchingColumnsNet(net, net) if isinstance(net, PredictsColumns) else BatchingNet(net)


def serve_calls(net: nn.Module, calls: Sequence[tuple[NetCall, int]], *, device_type: str, padded_rows: int) -> None:
    """Serve the given rows of each call; equal calls share a forward; padded calls get padded_rows rows."""
    waiting = list(calls)
    while waiting:
        first, rows = waiting.pop(0)
        if first.padded:
            args = first.next_args(min(rows, padded_rows))
            filled = tuple(torch.cat([arg, arg[:1].expand(padded_rows - len(arg), *arg.shape[1:])]) for arg in args)
            first.add_part(
                _split(_cast(net, first, filled, device_type), [len(args[0]), padded_rows - len(args[0])])[0]
            )
            continue
        alike = [(c, r) for c, r in waiting if c.fits(first.method, first.args, first.reduced_precision)]
        waiting = [pair for pair in waiting if pair not in alike]
        group = [(first, rows), *alike]
        parts = [call.next_args(r) for call, r in group]
        out = _cast(net, first, tuple(map(_cat, zip(*parts, strict=True))), device_type)
        for (call, _), part in zip(group, _split(out, [len(p[0]) for p in parts]), strict=True):
            call.add_part(part)


def evaluate(net: nn.Module, method: str, args: tuple[Tensor, ...]) -> Output:
    """Return the output of a method of the network for args (N, …); ``forward`` is called with the network's hooks."""
    call: Callable[..., Output] = net if method == FORWARD else getattr(net, method)
    rows = len(args[0])
    more = rounded_rows(rows) - rows
    if not more:
        return call(*args)
    return _split(call(*(torch.cat([arg, arg[-1:].expand(more, *arg.shape[1:])]) for arg in args)), [rows, more])[0]


def rounded_rows(rows: int) -> int:
    """Return the next larger allowed number of rows (1 … 8, 10, 12, 14, 16, 20, 24 …), at most a quarter more.

    oneDNN caches compiled code and reordered weights for each shape. With forwards of arbitrary sizes, these would
    exceed its cache and use hundreds of MiB.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step


def _cast(net: nn.Module, call: NetCall, args: tuple[Tensor, ...], device_type: str) -> Output:
    if call.reduced_precision:
        return evaluate(net, call.method, args)
    with torch.autocast(device_type, enabled=False):
        return evaluate(net, call.method, args)


def _cat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _split(out: Output, sizes: list[int]) -> list[Output]:
    if len(sizes) == 1:
        return [out]
    if isinstance(out, tuple):
        return [tuple(parts) for parts in zip(*(part.split(sizes) for part in out), strict=True)]
    return list(out.split(sizes))


def _tensor(out: Output) -> Tensor:
    assert isinstance(out, Tensor)
    return out


def _join_parts(parts: list[Output]) -> Output:
    if isinstance(parts[0], tuple):
        return tuple(map(_cat, zip(*parts, strict=True)))
    return _cat([part for part in parts if isinstance(part, Tensor)])


def without_inference_mode(tensor: Tensor) -> Tensor:
    """Return a copy that is not an inference tensor, so that it can be used outside inference mode."""
    with torch.inference_mode(False):
        return tensor.clone()


class BatchedNetProxy:
    """The network as an auxiliary task calls it: a call waits until the batcher has served it.

    A call that needs gradients, as the trace of a flow's Jacobian does, waits for a turn and evaluates the network in
    the task's own thread. Without turns, a few such tasks would occupy all cores.
    """

    def __init__(
        self,
        net: nn.Module,
        handle: RequestHandle,
        submit: Callable[[NetCall | GradientTurn], None],
        *,
        reduced_precision: bool,
        padded: bool,
    ) -> None:
        """Wrap net; submit is the batcher's queue; reduced_precision and padded apply to every call."""
        self._net, self._handle, self._submit = net, handle, submit
        self._reduced_precision, self._padded = reduced_precision, padded
        self._turn: GradientTurn | None = None

    def __call__(self, *args: Any) -> Any:
        """Return net(*args). Raise CancelledError or DeadlineExceededError where the request must end."""
        return self._evaluate(FORWARD, args)

    def encode(self, *args: Any) -> Any:
        """Return net.encode(*args)."""
        return self._evaluate("encode", args)

    def decode(self, *args: Any) -> Any:
        """Return net.decode(*args)."""
        return self._evaluate("decode", args)

    def hidden(self, *args: Any) -> Any:
        """Return net.hidden(*args), for a network that predicts single columns; the task computes their logits."""
        return self._evaluate(HIDDEN, args)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the network itself: parameters, the logits of columns, a learned process."""
        return getattr(self._net, name)

    def end_turn(self) -> None:
        """Release the turn. It includes the derivatives of the evaluation."""
        if self._turn is not None:
            self._turn.ended = True
            self._submit(self._turn)
            self._turn = None

    def _evaluate(self, method: str, args: tuple[Any, ...]) -> Any:
        self.end_turn()
        if reason := self._handle.cancel_reason:
            raise reason
        if torch.is_grad_enabled() and any(arg.requires_grad for arg in args):
            turn = GradientTurn(handle=self._handle, rows=len(args[0]))
            self._submit(turn)
            turn.granted.result()
            self._turn = turn
            return evaluate(self._net, method, args)
        call = NetCall(
            handle=self._handle,
            method=method,
            args=args,
            reduced_precision=self._reduced_precision,
            padded=self._padded,
        )
        self._submit(call)
        return call.output.result()
