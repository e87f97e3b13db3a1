"""Samplers against their network evaluations without the sampler, at several batch sizes."""

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gen_ray.bench.gpu import memory, syncs
from gen_ray.bench.gpu.alternating import Conditions, OutOfTimeError, Repeat, alternate, ratio
from gen_ray.bench.gpu.workloads import SAMPLERS, Size, Workload
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.memory import is_out_of_memory
from gen_ray.engine.inference.precision import autocast
from gen_ray.maths.chain import Chain


class CallRecorder:
    """A net proxy that records which methods of the net a sampler calls, with their arguments."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap net, which receives all calls."""
        self._net, self.calls = net, list[tuple[str, tuple[Tensor, ...]]]()

    def __call__(self, *args: Tensor) -> Any:
        """Return net(*args)."""
        return self._call("__call__", args)

    def encode(self, *args: Tensor) -> Any:
        """Return net.encode(*args)."""
        return self._call("encode", args)

    def decode(self, *args: Tensor) -> Any:
        """Return net.decode(*args)."""
        return self._call("decode", args)

    def _call(self, method: str, args: tuple[Tensor, ...]) -> Any:
        self.calls.append((method, args))
        return getattr(self._net, method)(*args)


def measure(workload: Workload, size: Size, conditions: Conditions) -> dict[str, Any]:
    """Return a figure for each sampler and batch size; memory and host syncs for the first sampler's largest batch.

    Figures that are missing because of the time limit or of memory are listed with the reason.
    """
    model, figures, missing = workload.model(conditions.device), list[dict[str, Any]](), dict[str, str]()
    cells = [(sampler, batch) for sampler in SAMPLERS[workload.name] for batch in size.batches]
    for sampler, batch in cells:
        chain, steps = workload.chain(sampler, size.sampler_steps)
        try:
            timed = _timed(model.net, chain, batch, workload, size, conditions)
        except (OutOfTimeError, RuntimeError) as error:
            if not figures or not (isinstance(error, OutOfTimeError) or is_out_of_memory(error)):
                raise
            reason = "the time limit was reached" if isinstance(error, OutOfTimeError) else "out of memory"
            missing[f"{sampler} at batch {batch}"] = reason
            continue
        figures.append({"sampler": sampler, "steps": steps, "nfe": chain.nfe, "batch": batch, **timed})
    chain, _ = workload.chain(figures[0]["sampler"], size.sampler_steps)
    largest = max(cell["batch"] for cell in figures if cell["sampler"] == figures[0]["sampler"])
    run = sampler_run(model.net, chain, largest, workload, conditions.device)
    peak = memory.peak(conditions, lambda: run)
    waits = syncs.count(run, 1, conditions.device)
    return {"samplers": figures, "missing": missing, "largest_batch": largest, "memory": peak, "host_syncs": waits}


def _timed(
    net: nn.Module, chain: Chain, batch: int, workload: Workload, size: Size, conditions: Conditions
) -> dict[str, Any]:
    recorder = CallRecorder(net)
    sampler_run(recorder, chain, batch, workload, conditions.device)(1)
    sides = {
        "bare": evaluations(net, recorder.calls, workload, conditions.device),
        "gen_ray": sampler_run(net, chain, batch, workload, conditions.device),
    }
    seconds = alternate(conditions, sides, seconds=size.sampling_seconds)
    return {
        "rounds": len(seconds["bare"]),
        **{f"{name}_milliseconds_per_evaluation": 1e3 * median(of) / chain.nfe for name, of in seconds.items()},
        **ratio(seconds["bare"], seconds["gen_ray"]),
    }


def sampler_run(net: Any, chain: Chain, batch: int, workload: Workload, device: torch.device) -> Repeat:
    """Return a function that samples one batch, from the prior to finished samples on the CPU."""

    def repeat(times: int) -> None:
        with autocast(workload.experiment.training.precision, device):
            for _ in range(times):
                generate(net, chain, batch, seed=0, device=device, batch_size=batch)

    return repeat


def evaluations(
    net: nn.Module, calls: list[tuple[str, tuple[Tensor, ...]]], workload: Workload, device: torch.device
) -> Repeat:
    """Return a function that repeats the recorded network evaluations of a sampler without the sampler."""

    @torch.inference_mode()
    def repeat(times: int) -> None:
        with autocast(workload.experiment.training.precision, device):
            for _ in range(times):
                for method, args in calls:
                    getattr(net, method)(*args)

    return repeat
