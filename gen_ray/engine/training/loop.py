"""The training loop, the only one. It knows no family and no Ray; a guard added here protects every run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.texts import page
from gen_ray.engine.plots.grids import grid
from gen_ray.engine.training.batches import Batches, TimedIterator, prefetch_to_device
from gen_ray.engine.training.session import Session
from gen_ray.engine.training.step import StepSignal, TrainState, autocast
from gen_ray.errors import SharedError
from gen_ray.experiment import Experiment, Training
from gen_ray.family import Family
from gen_ray.maths.noise import generator

VALIDATION_ROWS = 256
"""Rows of one validation batch: part of the position that fixes its noise, so not for tuning."""

PREEMPTION_CHECK_SECONDS = 2.0
"""How often is asked whether a machine is about to be taken away: of all ranks together, which takes milliseconds."""

PREVIEW_IMAGES, PREVIEW_TEXTS = 64, 8
"""Samples by which learning is watched: as many as one looks at, or reads."""


class StoppedError(SharedError):
    """The training was asked to stop, and has done so with a checkpoint."""


def fit(experiment: Experiment, family: Family, session: Session, *, until: int | None = None) -> nn.Module:
    """Train from the newest checkpoint (or from nothing) to the last epoch, or only until another one is complete.

    Return the EMA net, which has been validated there and kept.
    """
    training, batch_size = experiment.training, experiment.data.batch_size
    batches = session.batches("train")
    total = max(1, training.epochs * batches.rows // batch_size)
    end = total if until is None else min(total, step_at(until, batch_size, batches.rows))
    learner = TrainState(family, training, session, total)
    for done, wish in steps(learner, batches, batch_size, first=learner.restore(), end=end):
        last, ended = done == end, _epoch_ended(done, batch_size, batches.rows)
        if last or (ended and ended % training.validate_every_epochs == 0):
            loss = validate(learner.ema, family, experiment, session)
            learner.newest, learner.best = loss, min(learner.best, loss)
            session.log({"validation/loss_nats": loss, "best/validation_loss_nats": learner.best}, done)
        if session.rank == 0 and (last or (ended and ended % training.sample_every_epochs == 0)):
            show_samples(learner.ema, family, experiment, session, done)
        if learner.snapshot_due(done):
            session.keep(learner.packed_averages, done)
        if last or wish:
            session.save(partial(learner.packed, done), done)
        if wish is StepSignal.STOP and not last:
            session.flush()
            raise StoppedError(f"stopped at step {done} of {total}: --resume goes on from there", reason="stopped")
    session.flush()
    return learner.ema


def steps(
    learner: TrainState, batches: Batches, batch_size: int, *, first: int, end: int | None = None
) -> Iterator[tuple[int, StepSignal]]:
    """Take the steps first … end−1, logging on the way; yield after each (steps done, what is to be done now).

    Without an end these are all there are.
    """
    training, end = learner.training, learner.total_steps if end is None else end
    stream = TimedIterator(prefetch_to_device(batches.stream(first), learner.session.device))
    meter, watch = TrainingMeter(learner, stream, batch_size, first), CheckpointPolicy(training, learner.session)
    for step, micros in zip(range(first, end), stream, strict=False):
        wished, began = watch.wish(), time.monotonic()
        report, agreed = learner.step(micros, step, wished)
        wish = watch.answer(agreed)
        if step == first and training.compile:  # the first step compiles forward and backward
            learner.session.log({"train/compile_seconds": time.monotonic() - began}, step)
        meter.add(report)
        done = step + 1
        if done % training.log_every_steps == 0 or done == end:
            meter.flush(done)
        with meter.paused():
            yield done, wish


class CheckpointPolicy:
    """When a checkpoint is due, or the end: rank 0 wishes, before each step, and all ranks do it after that step."""

    def __init__(self, training: Training, session: Session) -> None:
        """Begin with nothing due."""
        self.every, self.session = training.checkpoint_every_seconds, session
        self.saved_at = self.looked_at = time.monotonic()

    def wish(self) -> StepSignal:
        """Return what rank 0 wishes; of the others nobody takes notice."""
        now = time.monotonic()
        if self.session.rank == 0 and self.session.stopping():
            return StepSignal.STOP
        if now - self.saved_at > self.every:
            return StepSignal.CHECKPOINT
        return StepSignal.LOOK if now - self.looked_at > PREEMPTION_CHECK_SECONDS else StepSignal.GO_ON

    def answer(self, agreed: StepSignal) -> StepSignal:
        """Return GO_ON, CHECKPOINT or STOP; where a machine is about to go, that is a checkpoint at every look."""
        if agreed is StepSignal.LOOK:
            self.looked_at = time.monotonic()
            agreed = StepSignal.CHECKPOINT if self.session.preemption_notice() else StepSignal.GO_ON
        if agreed:
            self.saved_at = time.monotonic()
        return agreed


def step_at(epoch: int, batch_size: int, rows: int) -> int:
    """Return the optimizer steps after which so many epochs are complete."""
    return -(-epoch * rows // batch_size)


def _epoch_ended(done: int, batch_size: int, rows: int) -> int:
    """Return the number of epochs done if the last step completed one, else 0."""
    epochs = done * batch_size // rows
    return epochs if epochs > (done - 1) * batch_size // rows else 0


@torch.no_grad()
def validate(net: nn.Module, family: Family, experiment: Experiment, session: Session) -> float:
    """Return the mean training loss of net over the validation rows of all ranks, nats per example.

    The noise is a function of the batch's index: the same at every epoch and for any number of ranks.
    """
    sums = torch.zeros(2, device=session.device, dtype=torch.float64)
    for index, x in session.batches("validation").ordered(VALIDATION_ROWS):
        rng = generator(experiment.training.seed, 1 << 40, index, device=session.device)
        with autocast(experiment.training.precision, session.device):
            terms = family.loss(net, x.to(session.device), rng, step=1 << 40)
        sums += torch.stack([terms.total.sum().double(), torch.tensor(float(len(x)), device=session.device)])
    loss, rows = session.sum(sums).tolist()
    return loss / max(rows, 1)


def show_samples(net: nn.Module, family: Family, experiment: Experiment, session: Session, step: int) -> None:
    """Record the samples by which learning is watched: a picture of images, a page of texts, of other data nothing."""
    spec, drawn = family.spec, partial(preview, net, family, experiment, session.device)
    if spec.is_image:
        session.show("samples", grid(drawn(PREVIEW_IMAGES), levels=spec.levels), step)
    elif spec.is_text:
        session.show_text("samples", page(drawn(PREVIEW_TEXTS), spec), step)


def preview(net: nn.Module, family: Family, experiment: Experiment, device: torch.device, n: int) -> Tensor:
    """Return n samples (n, *shape): same seed every time, the default sampler."""
    family = family.fitted(net)
    chain = family.chain(next(iter(family.samplers())))
    with autocast(experiment.training.precision, device):
        return generate(net, chain, n, seed=experiment.training.seed, device=device)


class TrainingMeter:
    """Means and rates between two lines of the log."""

    def __init__(self, learner: TrainState, stream: TimedIterator, batch_size: int, first: int) -> None:
        """Start at step first."""
        self.learner, self.stream, self.batch_size = learner, stream, batch_size
        self._begin(first)

    def _begin(self, step: int) -> None:
        self.logged, self.since, self.sums, self.count = step, time.monotonic(), torch.zeros(()), 0
        self.stream.seconds = 0.0

    def add(self, report: torch.Tensor) -> None:
        """Count one step's loss and parts (P,)."""
        self.sums, self.count = self.sums + report, self.count + 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens in the block out of the rate."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def flush(self, done: int) -> None:
        """Log the means over all ranks since the last line."""
        learner, session = self.learner, self.learner.session
        means = session.sum(self.sums / self.count) / session.world_size
        seconds = time.monotonic() - self.since
        metrics = {
            **{f"train/{name}": value for name, value in zip(learner.names, means.tolist(), strict=True)},
            "train/images_per_second": (done - self.logged) * self.batch_size / seconds,
            "train/waiting_for_data": self.stream.seconds / seconds,
            "train/learning_rate": learner.optimizer.param_groups[0]["lr"],
        }
        session.log(metrics, done)
        session.progress(done, learner.total_steps)
        self._begin(done)
