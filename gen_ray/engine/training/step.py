"""One optimizer step: forward, backward, finite check on all ranks, clipping, update, EMA."""

import math
from contextlib import ExitStack
from enum import IntEnum

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gen_ray.engine.inference import model_files
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.training import checkpoint, ema, post_hoc_ema
from gen_ray.engine.training.session import Session
from gen_ray.errors import SharedError, UserError
from gen_ray.experiment import Training
from gen_ray.family import Family
from gen_ray.maths import power_ema
from gen_ray.maths.noise import generator, seed_at
from gen_ray.metrics import TRAINING_LOSS
from gen_ray.nets.activation_checkpointing import checkpoint_activations

DROPOUT = 1
"""Last element of the seed of dropout's random stream; seeds of the loss's noise do not have it."""


class StepSignal(IntEnum):
    """The action of all ranks after a step, decided by rank 0."""

    CONTINUE = 0
    CHECK_PREEMPTION = 1
    """Check for a preemption notice."""
    CHECKPOINT = 2
    STOP = 3


class NonFiniteError(SharedError):
    """The loss or a gradient was NaN or infinite. All ranks raise it at the same step, before the update."""


def learning_rate(training: Training, step: int, total: int) -> float:
    """Return the learning rate at a step: linear warm-up, then constant, or a cosine or linear decay to zero."""
    warmup = min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
    done = min(1.0, max(0, step - training.warmup_steps) / max(1, total - training.warmup_steps))
    decay = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
    return training.learning_rate * warmup * decay[training.decay]


class TrainState:
    """The state of training: net, EMA nets and optimizer. Apart from it, a step depends only on its number."""

    def __init__(self, family: Family, training: Training, session: Session, total_steps: int) -> None:
        """Initialise from training.seed, equally on every rank."""
        self.family, self.training, self.session, self.total_steps = family, training, session, total_steps
        torch.manual_seed(training.seed)
        self.module = family.build_net().to(session.device)
        self.ema = ema.copy_for_ema(self.module)
        self.power_averages = {
            gamma: ema.copy_for_ema(self.module) for gamma in power_ema.GAMMAS if training.ema_snapshots
        }
        if training.activation_checkpointing and not checkpoint_activations(self.module):
            reason = f"the net of {family.config.name} has no blocks that can be recomputed"
            raise UserError(f"training.activation_checkpointing: {reason}")
        if training.compile:
            self.module.compile()
        self.net = session.prepare(self.module)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )
        # The numbers of this rank's micro-batches in the global batch.
        workers = session.logical_workers
        accumulation = training.gradient_accumulation_steps
        self.micro_batch_numbers = range(workers.start * accumulation, workers.stop * accumulation)
        # A rank's gradient is the sum over its micro-batches divided by this; the average over ranks is then the mean
        # over all micro-batches, whatever their distribution.
        self.divisor = session.logical_worker_count * accumulation / session.world_size
        self.report_names: list[str] = []
        # The latest and the lowest validation loss, nats per example.
        self.validation_loss = self.best_validation_loss = math.inf
        self.validations_since_best = 0

    def step(
        self, micros: list[Tensor], step: int, own_signal: StepSignal = StepSignal.CONTINUE
    ) -> tuple[Tensor, StepSignal]:
        """Apply one update on micro-batches (N, *shape). Return the means of loss and parts (P,), and rank 0's signal.

        The means are over this rank's rows, in nats per example.

        Raise NonFiniteError on all ranks before the update if any rank's loss or gradient is not finite.
        """
        session, training = self.session, self.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, step, self.total_steps)
        sums = [
            self._backward(x, step, number, last=x is micros[-1])
            for number, x in enumerate(micros, self.micro_batch_numbers.start)
        ]
        report = torch.stack(sums).sum(0) / self.divisor
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), training.gradient_clip_norm or math.inf)
        flags = torch.zeros(1 + session.world_size, device=session.device)
        flags[0] = float(own_signal) if session.rank == 0 else 0.0
        # A non-finite gradient reaches every rank through the average; a rank whose own loss is bad counts twice.
        flags[1 + session.rank] = (~torch.stack([report[0], report[0] + norm]).isfinite()).sum()
        signal, *bad = session.sum(flags).tolist()
        if any(bad):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                f"the loss or its gradient is not finite at step {step} on rank {bad.index(max(bad))} "
                f"({self.family.config.name}): nothing was updated, and the last checkpoint is kept; "
                "try a lower training.learning_rate or training.precision=float32",
                reason="non_finite",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ema.update(self.ema, self.module, ema.ema_rate(training.ema_decay, step))
        for gamma, average in self.power_averages.items():
            ema.update(average, self.module, 1 - power_ema.decay(step + 1, gamma))
        return report, StepSignal(int(signal))

    def _backward(self, x: Tensor, step: int, number: int, *, last: bool) -> Tensor:
        """Add the gradient of a micro-batch; return the means of loss and parts (P,), nats per example."""
        session = self.session
        x = x.to(session.device)
        rng = generator(self.training.seed, step, number, device=session.device)
        # Dropout draws from the global generator: also a function of step, but independent of the noise in rng.
        torch.manual_seed(seed_at(self.training.seed, step, number, DROPOUT))
        with ExitStack() as stack:
            if not last and isinstance(self.net, DistributedDataParallel):
                stack.enter_context(self.net.no_sync())  # DDP averages once, at the last micro-batch
            with autocast(self.training.precision, session.device):
                terms = self.family.loss(self.net, x, rng, step=step)
            (terms.total.mean() / (self.family.spec.dims * self.divisor)).backward()
        self.report_names = [TRAINING_LOSS.key, *terms.parts]
        return torch.stack([part.detach().mean() for part in (terms.total, *terms.parts.values())])

    @property
    def _nets(self) -> dict[str, nn.Module]:
        return {"net": self.module, "ema": self.ema, **post_hoc_ema.file_names(self.power_averages)}

    def snapshot_due(self, done: int) -> bool:
        """Return whether a snapshot of the power-function averages is due after done steps."""
        n, total = self.training.ema_snapshots, self.total_steps
        return done * n // total > (done - 1) * n // total

    def validated(self, loss: float) -> bool:
        """Record a validation loss, nats per example, and return whether it is the lowest so far."""
        improved = loss < self.best_validation_loss
        self.validation_loss, self.best_validation_loss = loss, min(self.best_validation_loss, loss)
        self.validations_since_best = 0 if improved else self.validations_since_best + 1
        return improved

    @property
    def exhausted(self) -> bool:
        """Return whether training.patience validations in sequence have not lowered the validation loss."""
        return self.training.patience is not None and self.validations_since_best >= self.training.patience

    def pack(self, step: int) -> model_files.Files:
        """Return the files of a checkpoint taken before step."""
        position = {
            "step": step,
            "validation_nats": self.validation_loss,
            "best_validation_nats": self.best_validation_loss,
            "validations_since_best": self.validations_since_best,
        }
        return checkpoint.pack(nets=self._nets, optimizer=self.optimizer, position=position)

    def pack_averages(self) -> model_files.Files:
        """Return the files of a snapshot of the power-function averages."""
        return checkpoint.pack_nets(post_hoc_ema.file_names(self.power_averages))

    def restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the next step."""
        with self.session.restore() as folder:
            if folder is None:
                return 0
            position = checkpoint.read(folder, nets=self._nets, optimizer=self.optimizer)
            for group in self.optimizer.param_groups:  # the loaded state has the settings of the earlier run
                group.update(betas=self.training.betas, weight_decay=self.training.weight_decay)
            self.validation_loss = position["validation_nats"]
            self.best_validation_loss = position["best_validation_nats"]
            self.validations_since_best = position.get("validations_since_best", 0)
            return position["step"]
