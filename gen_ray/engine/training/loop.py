"""The training loop, the only one. It does not depend on a family or on Ray; a check added here protects every run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.texts import page
from gen_ray.engine.plots.grids import grid
from gen_ray.engine.training.batches import Batches, TimedIterator, prefetch_to_device
from gen_ray.engine.training.session import Session
from gen_ray.engine.training.step import StepSignal, TrainState
from gen_ray.errors import SharedError, argument
from gen_ray.experiment import Experiment, Training
from gen_ray.family import Family
from gen_ray.maths.noise import generator
from gen_ray.metrics import IMAGES_PER_SECOND, VALIDATION_LOSS

VALIDATION_ROWS = 256
"""Rows of one validation batch. The noise depends on it, so it is not an option."""

PREEMPTION_CHECK_SECONDS = 2.0
"""Seconds between preemption checks; a check is a collective of all ranks and takes milliseconds."""

BEST_VALIDATION_LOSS = "best/validation_loss_nats"

PREVIEW_IMAGES, PREVIEW_TEXTS = 64, 8
"""Numbers of samples in a preview."""


class StoppedError(SharedError):
    """The training was stopped on request, after it saved a checkpoint."""


def fit(experiment: Experiment, family: Family, session: Session, *, until_epoch: int | None = None) -> nn.Module:
    """Train from the newest checkpoint, or from scratch, to the last epoch or until the end of epoch until_epoch.

    With training.patience it ends earlier, when that many validations have not improved; each improvement is saved.
    Return the EMA net, which was validated and saved at that point.
    """
    training, batch_size = experiment.training, experiment.data.batch_size
    batches = session.batches("train")
    total = max(1, training.epochs * batches.rows // batch_size)
    end = total if until_epoch is None else min(total, step_at(until_epoch, batch_size, batches.rows))
    state = TrainState(family, training, session, total)
    first = state.restore()
    for done, signal in steps(state, batches, batch_size, first=end if state.exhausted else first, end=end):
        last, ended, improved = done == end, _epoch_ended(done, batch_size, batches.rows), False
        if last or (ended and ended % training.validate_every_epochs == 0):
            improved = state.validated(validate(state.ema, family, experiment, session))
            losses = {VALIDATION_LOSS.name: state.validation_loss, BEST_VALIDATION_LOSS: state.best_validation_loss}
            session.log(losses, done)
            last = last or state.exhausted
        if session.rank == 0 and (last or (ended and ended % training.sample_every_epochs == 0)):
            show_samples(state.ema, family, experiment, session, done)
        if state.snapshot_due(done):
            session.save_snapshot(state.pack_averages, done)
        if last or signal or (improved and training.patience is not None):
            session.save(partial(state.pack, done), done)
        if signal is StepSignal.STOP and not last:
            session.flush()
            remedy = f"{argument('resume')} continues from there"
            raise StoppedError(f"stopped at step {done} of {total}: {remedy}", reason="stopped")
        if last:
            break
    session.flush()
    return state.ema


def steps(
    state: TrainState, batches: Batches, batch_size: int, *, first: int, end: int | None = None
) -> Iterator[tuple[int, StepSignal]]:
    """Run the steps first … end−1 with logging; yield after each (steps done, signal for all ranks).

    end defaults to the total number of steps.
    """
    training, end = state.training, state.total_steps if end is None else end
    stream = TimedIterator(prefetch_to_device(batches.stream(first), state.session.device))
    meter, policy = TrainingMeter(state, stream, batch_size, first), CheckpointPolicy(training, state.session)
    for step, micros in zip(range(first, end), stream, strict=False):
        own_signal, began = policy.own_signal(), time.monotonic()
        report, agreed = state.step(micros, step, own_signal)
        signal = policy.common_signal(agreed)
        if step == first and training.compile:  # the first step compiles forward and backward
            state.session.log({"train/compile_seconds": time.monotonic() - began}, step)
        meter.add(report)
        done = step + 1
        if done % training.log_every_steps == 0 or done == end:
            meter.flush(done)
        with meter.paused():
            yield done, signal


class CheckpointPolicy:
    """Decides when to save a checkpoint or to stop: rank 0 decides before a step, and all ranks act after it."""

    def __init__(self, training: Training, session: Session) -> None:
        """Start the interval of the next checkpoint and of the next preemption check."""
        self.every, self.session = training.checkpoint_every_seconds, session
        self.saved_at = self.checked_at = time.monotonic()

    def own_signal(self) -> StepSignal:
        """Return the signal of rank 0; that of other ranks is ignored."""
        now = time.monotonic()
        if self.session.rank == 0 and self.session.stop_requested():
            return StepSignal.STOP
        if now - self.saved_at > self.every:
            return StepSignal.CHECKPOINT
        return StepSignal.CHECK_PREEMPTION if now - self.checked_at > PREEMPTION_CHECK_SECONDS else StepSignal.CONTINUE

    def common_signal(self, agreed: StepSignal) -> StepSignal:
        """Return CONTINUE, CHECKPOINT or STOP. A preemption check becomes a checkpoint where notice was given."""
        if agreed is StepSignal.CHECK_PREEMPTION:
            self.checked_at = time.monotonic()
            agreed = StepSignal.CHECKPOINT if self.session.preemption_notice() else StepSignal.CONTINUE
        if agreed:
            self.saved_at = time.monotonic()
        return agreed


def step_at(epoch: int, batch_size: int, rows: int) -> int:
    """Return the number of optimizer steps that complete the given number of epochs."""
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
    for index, x in session.batches("validation").slices(VALIDATION_ROWS):
        rng = generator(experiment.training.seed, 1 << 40, index, device=session.device)
        with autocast(experiment.training.precision, session.device):
            terms = family.loss(net, x.to(session.device), rng, step=1 << 40)
        sums += torch.stack([terms.total.sum().double(), torch.tensor(float(len(x)), device=session.device)])
    loss, rows = session.sum(sums).tolist()
    return loss / max(rows, 1)


def show_samples(net: nn.Module, family: Family, experiment: Experiment, session: Session, step: int) -> None:
    """Log preview samples: a picture for images, a page for texts, nothing for other data."""
    spec, draw = family.spec, partial(preview, net, family, experiment, session.device)
    if spec.is_image:
        session.log_image("samples", grid(draw(PREVIEW_IMAGES), levels=spec.levels), step)
    elif spec.is_text:
        session.log_text("samples", page(draw(PREVIEW_TEXTS), spec), step)


def preview(net: nn.Module, family: Family, experiment: Experiment, device: torch.device, n: int) -> Tensor:
    """Return n samples (n, *shape) of the default sampler, with the same seed at every call."""
    family = family.fitted(net)
    chain = family.chain(next(iter(family.samplers())))
    with autocast(experiment.training.precision, device):
        return generate(net, chain, n, seed=experiment.training.seed, device=device)


class TrainingMeter:
    """Means and rates between two log lines."""

    def __init__(self, state: TrainState, stream: TimedIterator, batch_size: int, first: int) -> None:
        """Start at step first."""
        self.state, self.stream, self.batch_size = state, stream, batch_size
        self._begin(first)

    def _begin(self, step: int) -> None:
        self.logged, self.since, self.sums, self.count = step, time.monotonic(), torch.zeros(()), 0
        self.stream.seconds = 0.0

    def add(self, report: torch.Tensor) -> None:
        """Add one step's loss and parts (P,)."""
        self.sums, self.count = self.sums + report, self.count + 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the block from the rate."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def flush(self, done: int) -> None:
        """Log the means over all ranks since the last log line."""
        state, session = self.state, self.state.session
        means = session.sum(self.sums / self.count) / session.world_size
        seconds = time.monotonic() - self.since
        metrics = {
            **{f"train/{name}": value for name, value in zip(state.report_names, means.tolist(), strict=True)},
            IMAGES_PER_SECOND.name: (done - self.logged) * self.batch_size / seconds,
            "train/waiting_for_data": self.stream.seconds / seconds,
            "train/learning_rate": state.optimizer.param_groups[0]["lr"],
        }
        session.log(metrics, done)
        session.progress(done, state.total_steps)
        self._begin(done)
