"""One optimizer step: micro-batches, learning rate, EMA, clipping, and the finite check before the update."""

import copy
import math
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.engine.inference.precision import autocast, precision_on
from gen_ray.engine.training import ema
from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import NonFiniteError, StepSignal, TrainState, learning_rate
from gen_ray.errors import UserError
from gen_ray.experiment import Training
from gen_ray.family import LossTerms
from gen_ray.maths.noise import generator
from tests.engine.tiny_models import CPU, SPEC, Ring, RingSession, experiment, images, session, splits


def learner(family: str = "vae", *, kind: type = LocalSession, total: int = 100, **training: Any) -> TrainState:
    exp = experiment(family, **training)
    return TrainState(exp.model(SPEC), exp.training, session(exp, kind=kind), total)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- micro-batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_accumulated_gradients_equal_the_gradient_of_the_mean(family: str) -> None:
    two = learner(family, gradient_accumulation_steps=2)
    x = images(8)
    for number, micro in enumerate(x.split(4)):
        two._backward(micro, 3, number, last=number == 1)
    found = [p.grad.clone() for p in two.module.parameters()]
    losses = [
        two.family.loss(two.module, micro, generator(0, 3, number), step=3).total
        for number, micro in enumerate(x.split(4))
    ]
    gradients = torch.autograd.grad(torch.cat(losses).mean() / 16, list(two.module.parameters()))
    torch.testing.assert_close(found, list(gradients), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["vae", "ddpm-dropout"])
def test_two_ranks_equal_one_rank_with_two_micro_batches(family: str) -> None:
    """Noise and dropout belong to the micro-batch, not the rank; DDP's average equals the accumulation."""
    one = learner(family, gradient_accumulation_steps=2)
    micros = list(images(8).split(4))
    for number in (0, 1):
        one._backward(micros[number], 5, number, last=number == 1)
    apart = []
    for rank in (0, 1):
        exp = experiment(family, workers=2)
        single = TrainState(exp.model(SPEC), exp.training, RingSession(Ring(2), rank, exp), 100)
        single._backward(micros[rank], 5, rank, last=True)
        apart.append([p.grad for p in single.module.parameters()])
    for grad, first, second in zip([p.grad for p in one.module.parameters()], *apart, strict=True):
        torch.testing.assert_close(grad, (first + second) / 2, rtol=1e-5, atol=1e-7)


def test_dropout_does_not_share_the_stream_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two generators with one seed give one stream, on CPUs and GPUs: dropout masks would depend on the noise."""
    one, masks = learner("ddpm-dropout"), []

    def loss(net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        masks.append((rng.initial_seed(), torch.initial_seed(), torch.rand(64, generator=rng), torch.rand(64)))
        return LossTerms(total=net(x.float(), torch.ones(len(x))).flatten(1).sum(1))

    monkeypatch.setattr(one.family, "loss", loss)
    for step, number in ((3, 0), (3, 1), (4, 0), (3, 0)):
        one._backward(images(4), step, number, last=True)
    noise, dropout, *draws = zip(*masks, strict=True)
    assert len({*noise, *dropout}) == 6 and (noise[0], dropout[0]) == (noise[3], dropout[3])
    assert all((a - b).abs().max() > 0.1 for a, b in zip(*draws, strict=True))


def test_initial_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(99)
    first = learner()
    torch.manual_seed(1)
    assert same(weights(first.module), weights(learner().module))
    assert not same(weights(first.module), weights(learner(seed=1).module))
    assert same(weights(first.module), weights(first.ema))


def test_the_report_is_the_mean_over_all_rows() -> None:
    one, (a, b) = learner(gradient_accumulation_steps=2), images(8).split(4)
    expected = torch.cat(
        [one.family.loss(one.module, x, generator(0, 0, number), step=0).total for number, x in enumerate((a, b))]
    ).mean()
    report, due = one.step([a, b], 0)
    torch.testing.assert_close(report[0], expected.detach())
    assert one.report_names == ["loss_nats", "reconstruction_nats", "kl_nats"] and not due
    torch.testing.assert_close(report[0], report[1:].sum())


# ---- the update ---------------------------------------------------------------------------------------------------


def test_a_step_is_adamw_on_the_mean_loss_per_dimension() -> None:
    ours, x = learner(gradient_clip_norm=None, weight_decay=0.1), images(8)
    theirs = copy.deepcopy(ours.module)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        ours.step([x], step)
        optimizer.zero_grad()
        (ours.family.loss(theirs, x, generator(0, step, 0), step=step).total.mean() / 16).backward()
        optimizer.step()
    torch.testing.assert_close(weights(ours.module), weights(theirs), rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_gradient_and_nothing_else() -> None:
    """Uses plain gradient descent, so that the length of an update is that of the gradient."""
    for limit, bound in ((1e-3, 1e-3), (None, math.inf), (1e6, math.inf)):
        one, x = learner(gradient_clip_norm=limit), images(8)
        free = torch.autograd.grad(
            one.family.loss(one.module, x, generator(0, 0, 0), step=0).total.mean() / 16, list(one.module.parameters())
        )
        norm = math.sqrt(sum(float(g.square().sum()) for g in free))
        before = weights(one.module)
        one.optimizer = torch.optim.SGD(one.module.parameters(), lr=0.0)
        one.step([x], 0)
        moved = [b - a for a, b in zip(weights(one.module), before, strict=True)]
        length = math.sqrt(sum(float(m.square().sum()) for m in moved)) / 1e-2
        assert length == pytest.approx(min(norm, bound), rel=1e-3)
        for step, gradient in zip(moved, free, strict=True):  # the direction does not change
            torch.testing.assert_close(step / 1e-2, gradient * min(1, bound / norm), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
    ],
)
def test_the_learning_rate_warms_up_and_falls_to_zero(decay: Any, expected: list[float]) -> None:
    training = Training(learning_rate=2.0, warmup_steps=4, decay=decay)
    rates = [learning_rate(training, step, 8) for step in range(8)]
    assert rates == pytest.approx([2 * e for e in expected])
    assert learning_rate(training, 8, 8) == pytest.approx(2.0 if decay == "constant" else 0)
    cold = Training(learning_rate=2.0, decay=decay)
    assert learning_rate(cold, 0, 8) == 2.0 and learning_rate(cold, 0, 1) == 2.0
    one = learner(learning_rate=1e-3, warmup_steps=2)
    one.step([images(8)], 0)
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_the_average_follows_its_closed_form() -> None:
    net, drift = nn.Linear(1, 1, bias=False), 0.5
    twin, expected = ema.copy_for_ema(net), net.weight.item()
    start = expected
    for step in range(200):
        with torch.no_grad():
            net.weight.fill_(start + drift * (step + 1))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.item()
        ema.update(twin, net, ema.ema_rate(0.9, step))
        assert twin.weight.item() == pytest.approx(expected, rel=1e-5)
    assert (net.weight - twin.weight).item() == pytest.approx(drift * 0.9 / (1 - 0.9), rel=1e-3)  # lag of a line
    for step in range(200, 400):  # constant weights: the distance shrinks by the decay each step
        gap = (net.weight - twin.weight).item()
        ema.update(twin, net, ema.ema_rate(0.9, step))
        if gap > 0.1:
            assert (net.weight - twin.weight).item() == pytest.approx(0.9 * gap, rel=1e-3)
    assert not twin.training and not any(p.requires_grad for p in twin.parameters())


def test_the_average_copies_buffers() -> None:
    net = nn.BatchNorm1d(2)
    twin = ema.copy_for_ema(net)
    net(torch.randn(8, 2))
    ema.update(twin, net, ema.ema_rate(0.9, 0))
    assert torch.equal(twin.running_mean, net.running_mean) and twin.num_batches_tracked == 1


# ---- the finite check ---------------------------------------------------------------------------------------------


class Faulty:
    """A family whose loss and gradient, or only whose gradient, are not finite at some step."""

    def __init__(self, family: Any, step: int, *, gradient_only: bool) -> None:
        self.family, self.at, self.gradient_only = family, step, gradient_only
        self.config, self.spec, self.build_net = family.config, family.spec, family.build_net

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        terms = self.family.loss(net, x, rng, step=step)
        if step != self.at:
            return terms
        if self.gradient_only:  # sqrt has an infinite slope at 0
            return replace(terms, total=terms.total + (next(iter(net.parameters())) * 0).sum().sqrt())
        return replace(terms, total=terms.total * math.nan)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_that_is_not_finite_stops_before_the_update(gradient_only: bool) -> None:
    exp = experiment("ddpm")
    one = TrainState(Faulty(exp.model(SPEC), 2, gradient_only=gradient_only), exp.training, session(exp), 100)  # type: ignore[arg-type]
    for step in (0, 1):
        one.step([images(8)], step)
    net, average, state = weights(one.module), weights(one.ema), copy.deepcopy(one.optimizer.state_dict()["state"])
    with pytest.raises(NonFiniteError, match=r"step 2 on rank 0 \(ddpm\).*learning_rate"):
        one.step([images(8)], 2)
    assert same(net, weights(one.module)) and same(average, weights(one.ema))
    for key, moments in one.optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[name], state[key][name]) for name in moments)
    assert all(p.grad is None for p in one.module.parameters())


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_every_rank_stops_and_names_the_one_at_fault(culprit: int) -> None:
    """After DDP's average the gradient is not finite on every rank, but the loss only on one."""
    ring, exp = Ring(3), experiment(workers=3, batch_size=9)

    def work(rank: int) -> None:
        one = TrainState(made[rank], exp.training, RingSession(ring, rank, exp), 100)  # type: ignore[arg-type]
        one.step([images(3)], 0)

    made = [Faulty(exp.model(SPEC), 0, gradient_only=rank != culprit) for rank in range(3)]
    errors = ring.run(work)
    assert all(isinstance(error, NonFiniteError) for error in errors)
    assert all(f"step 0 on rank {culprit} (vae)" in str(error) for error in errors)


def test_only_rank_0_decides_the_signal_of_a_step() -> None:
    for asking, expected in ((0, StepSignal.STOP), (1, StepSignal.CONTINUE)):
        ring, exp = Ring(2), experiment(workers=2)
        ranks = [TrainState(exp.model(SPEC), exp.training, RingSession(ring, r, exp), 100) for r in range(2)]

        def work(rank: int, ranks: list[TrainState] = ranks, asking: int = asking) -> StepSignal:
            return ranks[rank].step([images(4)], 0, StepSignal.STOP if rank == asking else StepSignal.CONTINUE)[1]

        assert ring.run(work) == [expected, expected]


# ---- precision ----------------------------------------------------------------------------------------------------


def test_auto_is_bfloat16_where_the_processor_has_it() -> None:
    assert precision_on("auto", CPU) == ("bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32")
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("family", ["vae", "ddpm", "ddpm-dropout"])
def test_bfloat16_trains_deterministically_near_float32(family: str) -> None:
    runs = {}
    for name in ("bfloat16", "bfloat16", "float32"):
        one = learner(family, precision=name)
        losses = [float(one.step([images(8)], step)[0][0]) for step in range(5)]
        if name in runs:
            assert runs[name] == (losses, [w.tolist() for w in weights(one.module)])
        runs[name] = (losses, [w.tolist() for w in weights(one.module)])
        assert all(w.dtype == torch.float32 for w in weights(one.module))
    assert runs["bfloat16"][0] == pytest.approx(runs["float32"][0], rel=0.05)
    assert runs["bfloat16"][0] != runs["float32"][0]


# ---- activation checkpointing, compilation, workers ---------------------------------------------------------------


def test_recomputing_is_refused_for_a_net_without_blocks() -> None:
    exp = experiment("ddpm", activation_checkpointing=True)
    with pytest.raises(UserError, match=r"training\.activation_checkpointing: the net of ddpm has no blocks"):
        TrainState(exp.model(SPEC), exp.training, session(exp), 10)


def test_a_recomputing_run_equals_the_plain_run_to_the_bit() -> None:
    """The net has dropout, which must draw the same numbers twice."""
    ends = []
    for anew in (False, True):
        exp = experiment("ddpm-dropout", activation_checkpointing=anew)
        one = TrainState(exp.model(SPEC), exp.training, session(exp), 10)
        for step in range(3):
            one.step([images(8, seed=step)], step)
        ends.append(one.module.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_weights_and_names_of_the_eager_run() -> None:
    ends = []
    for compiled in (False, True):
        exp = experiment("vae", compile=compiled, learning_rate=1e-3)
        here = session(exp)
        ends.append(fit(exp, exp.model(SPEC), here).state_dict())
        assert any("train/compile_seconds" in metrics for _, metrics in here.history) is compiled
    assert ends[0].keys() == ends[1].keys()
    for name in ends[0]:
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shared_out", [[range(4)], [range(2), range(2, 4)], [range(1), range(1, 2), range(2, 4)]])
def test_the_step_is_the_same_for_any_number_of_workers(shared_out: list[range]) -> None:
    """Four micro-batches on one, two or (unequally) three workers give the same average gradient."""
    micros = list(images(8).split(2))

    def gradients(slots: range, workers: int) -> list[torch.Tensor]:
        exp = experiment("vae")
        session = LocalSession(splits(exp), world_size=workers, logical_workers=slots, logical_worker_count=4)
        single = TrainState(exp.model(SPEC), exp.training, session, 100)
        for number in single.micro_batch_numbers:
            single._backward(micros[number], 5, number, last=number == single.micro_batch_numbers[-1])
        return [p.grad for p in single.module.parameters()]

    expected = gradients(range(4), 1)
    found = [gradients(slots, len(shared_out)) for slots in shared_out]
    for gradient, *parts in zip(expected, *found, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), gradient, rtol=1e-5, atol=1e-7)
