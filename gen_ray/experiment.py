"""The complete typed configuration of a run: a YAML file plus ``key=value`` overrides."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializeAsAny,
    model_validator,
)

from gen_ray import families
from gen_ray.configuration.base import LONGEST_SECONDS, Config, validated
from gen_ray.configuration.field_types import Count, Momentum, Name, Text
from gen_ray.configuration.files import TRAINING, apply_override, checked, checked_saved, with_location
from gen_ray.datasets.source import SourceOptions
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.family import Family, FamilyConfig
from gen_ray.maths.chain import Chain
from gen_ray.storage import paths as storage
from gen_ray.storage.user_paths import local


def _folder(where: object) -> object:
    """Return an absolute path. It must be made before pathlib, which removes the second / of a URI."""
    if not isinstance(where, str | Path):
        return where
    try:
        return local(str(where)).absolute()
    except UserError as error:
        raise ValueError(str(error)) from None


def _on_bad_row(text: str) -> str:
    if not re.fullmatch(r"stop|skip:\d+", text):
        raise ValueError("must be stop, or skip:N, where N is the number of rows that may be left out")
    return text


def _root(where: object) -> Path:
    if not isinstance(where, str) and not hasattr(where, "joinpath"):
        raise ValueError("must be a path or URI")
    try:
        return storage.root(str(where))
    except UserError as error:
        raise ValueError(str(error).removeprefix("storage.root=")) from None


Folder = Annotated[Path, BeforeValidator(_folder)]
Root = Annotated[Path, PlainValidator(_root), PlainSerializer(str)]
"""A folder or a URI. The paths of an object store are not pathlib.Path objects, but have the same methods."""


class Data(Config):
    """The data set and its batching."""

    source: Text = Field(
        "digits",
        description="the data set: digits, mnist, fashion_mnist, cifar10, image_folder:DIR, text:FILE, parquet:GLOB, "
        "csv:GLOB, wine, breast_cancer, iris or diabetes",
    )
    root: Folder | None = Field(None, description="folder of files already on disk (layout of torchvision)")
    options: SourceOptions = SourceOptions()
    on_bad_row: Annotated[str, AfterValidator(_on_bad_row)] = Field(
        "stop", description="what to do with unreadable rows: stop, or skip:N to skip at most N rows"
    )
    batch_size: int = Field(128, ge=1, le=2**20, description="rows per step, over all workers")
    cache: Literal["auto", "memory", "stream"] = Field(
        "auto", description="memory: workers hold the data; stream: they read shards in each epoch; auto: by size"
    )


class Training(Config):
    """The optimisation of the weights."""

    epochs: int = Field(40, ge=1, le=10_000_000, description="passes over the training split")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, data order, noise and dropout")
    learning_rate: float = Field(2e-4, gt=0, lt=10, description="step size after the warm-up")
    betas: tuple[Momentum, Momentum] = Field((0.9, 0.999), description="decay rates of AdamW's moments")
    weight_decay: float = Field(0.0, ge=0, le=1000, description="decoupled weight decay")
    warmup_steps: int = Field(0, ge=0, le=10**9, description="steps in which the learning rate rises from 0")
    decay: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="course of the learning rate after the warm-up"
    )
    gradient_clip_norm: float | None = Field(
        1.0, ge=1e-9, le=1e9, description="largest norm of a gradient; null: no limit"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the weight average that is evaluated and served")
    ema_snapshots: int = Field(8, ge=0, le=10_000, description="number of weight snapshots kept for post-hoc EMA")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 if the hardware supports it"
    )
    gradient_accumulation_steps: int = Field(1, ge=1, le=2**20, description="micro-batches per worker and step")
    compile: bool = Field(False, description="compile the network by torch.compile; the time is recorded")
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: saves memory and takes time"
    )
    log_every_steps: int = Field(50, ge=1, le=10**9, description="steps between metrics")
    validate_every_epochs: int = Field(1, ge=1, le=10_000_000, description="epochs between validations")
    patience: int | None = Field(
        None, ge=1, le=10_000_000, description="validations without improvement after which training ends; null: none"
    )
    sample_every_epochs: int = Field(10, ge=1, le=10_000_000, description="epochs between pictures")
    checkpoint_every_seconds: float = Field(60.0, ge=0, le=LONGEST_SECONDS, description="seconds between checkpoints")


class Scaling(Config):
    """The workers and their resources.

    ``auto`` divides the cores of the machine among the workers, and gives each a GPU if there are enough.
    """

    num_workers: Count | tuple[Count, Count] = Field(
        1, description="number of workers, or [fewest, most] for a run that adapts to the free resources"
    )
    cpus_per_worker: Count | Literal["auto"] = Field("auto", description="cores of each worker; auto: an equal share")
    use_gpu: bool | Literal["auto"] = Field("auto", description="auto: one GPU per worker if there are enough")
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="GPUs of each worker; below 1, trials of a sweep share a GPU and its memory"
    )
    max_failures: int = Field(3, ge=0, le=10_000, description="replacements of lost workers before the run fails")
    hang_seconds: float = Field(
        60.0, ge=1, le=LONGEST_SECONDS, description="seconds without a message after which a worker counts as lost"
    )
    grow_seconds: float = Field(
        60.0, gt=0, le=LONGEST_SECONDS, description="seconds between attempts of an elastic run to add workers"
    )
    priority: float = Field(
        1.0, ge=1e-6, le=1e6, description="weight of the run's share of a cluster that several runs use"
    )

    @property
    def fewest_workers(self) -> int:
        """Return the smallest number of workers with which the run continues."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Return the largest number of workers. Batches are divided for this number, also while fewer workers run."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def elastic(self) -> bool:
        """Return whether the number of workers may change during the run."""
        return not isinstance(self.num_workers, int)

    @model_validator(mode="after")
    def _no_more_than_most(self) -> "Scaling":
        if self.fewest_workers > self.most_workers:
            raise ValueError(
                f"num_workers=[{self.fewest_workers}, {self.most_workers}]: the first number must not exceed the second"
            )
        return self

    @model_validator(mode="after")
    def _a_gpu_for_each_of_several(self) -> "Scaling":
        if self.gpus_per_worker < 1 and self.most_workers > 1:
            raise ValueError(f"gpus_per_worker={self.gpus_per_worker:g}: must be 1 where num_workers > 1 (NCCL)")
        return self


class Evaluation(Config):
    """The measurements after training."""

    samples: int = Field(2000, ge=2, le=1_000_000, description="samples for Fréchet distance, precision and recall")
    sampler: str | None = Field(None, description="NAME or NAME:option=value; null: the default of the family")
    steps: int | None = Field(None, ge=1, le=100_000, description="steps of the sampler; null: its default")
    table_rows: int = Field(
        50_000, ge=10, le=10_000_000, description="largest number of rows of a table, and of samples, to compare"
    )
    likelihood_rows: int = Field(1000, ge=2, le=10_000_000, description="largest number of rows for bits per dimension")
    effort: int | None = Field(None, ge=1, le=100_000, description="draws per row for bits per dimension; null: 100")
    neighbours: int = Field(5, ge=1, le=1000, description="k of the k nearest neighbours of precision and recall")
    checkpoint: Literal["last", "best"] | None = Field(
        None, description="checkpoint to evaluate: last, or best of validation; null: best if training.patience is set"
    )


class Storage(Config):
    """The place of runs, checkpoints, prepared data and the default MLflow store: a folder, or s3://bucket/prefix."""

    root: Root = Field(default_factory=storage.default, description="a folder, or a URI such as s3://bucket/prefix")


class Tracking(Config):
    """The MLflow server and experiment. uri null: MLFLOW_TRACKING_URI, else a SQLite store below storage.root."""

    uri: Text | None = Field(None, description="URI of MLflow; null: see above")
    experiment: Name = Field("gen_ray", description="the MLflow experiment")


class Experiment(Config):
    """The configuration of a run.

    ``parse`` and ``load`` create it, and report mistakes in one line.
    """

    name: Name = Field(description="name of the runs")
    data: Data = Data()
    family: SerializeAsAny[FamilyConfig]
    training: Training = Training()
    scaling: Scaling = Scaling()
    evaluation: Evaluation = Evaluation()
    storage: Storage = Field(default_factory=Storage)
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _micro_batches_divide_the_batch(self) -> "Experiment":
        micro_batches = self.scaling.most_workers * self.training.gradient_accumulation_steps
        if self.data.batch_size % micro_batches:
            raise ValueError(
                f"data.batch_size={self.data.batch_size} must be a multiple of "
                f"scaling.num_workers × training.gradient_accumulation_steps = {micro_batches}"
            )
        return self

    def model(self, spec: DataSpec) -> Family:
        """Return the family bound to a data set. Raise UserError if the data or evaluation do not suit the family."""
        family = families.find(self.family.name)(self.family, spec)
        try:
            self.chain(family)
        except UserError as error:
            raise UserError(f"evaluation.{error}") from None
        return family

    @property
    def evaluated_checkpoint(self) -> Literal["last", "best"]:
        """Return which checkpoint becomes the artifact: by default the best one if training.patience is set."""
        return self.evaluation.checkpoint or ("last" if self.training.patience is None else "best")

    def chain(self, family: Family, sampler: str | None = None, steps: int | None = None) -> Chain:
        """Return the chain of a sampler and steps. Defaults: those of the evaluation, else of the family."""
        if sampler is None:
            sampler, steps = self.sampler(family), steps or self.evaluation.steps
        return family.chain(sampler, steps)

    def sampler(self, family: Family) -> str:
        """Return the sampler that the evaluation names, or else the family's default."""
        return self.evaluation.sampler or next(iter(family.samplers()))

    def resolved(self) -> dict[str, Any]:
        """Return every setting, defaults included, as plain YAML values."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """Return every setting under its dotted name."""
        return dict(flatten(self.resolved()))


def parse(raw: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a mapping describes. Raise UserError: one line with the key and the remedy."""
    section = raw.get("family", {})
    section = {"name": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping) or "name" not in section:
        raise UserError(f"family.name: is required; known: {', '.join(families.names())}")
    family = families.find(str(section["name"]))
    return validated(Experiment, {**raw, "family": validated(family.Config, section, path="family")})


def load(file: Path, overrides: Iterable[str] = (), *, saved: bool = False) -> Experiment:
    """Return the experiment of a YAML file, after overlays and ``dotted.key=value`` overrides in their order.

    An overlay is another YAML file with the same sections; its values replace earlier ones. If saved, the file was
    written by a run or an artifact, also of an earlier version, and may have earlier names of keys. Raise UserError.
    """
    overrides = list(overrides)
    raw = checked_saved(file) if saved else checked(file, TRAINING)
    changed = deepcopy(raw)
    for override in overrides:
        apply_override(changed, override)
    try:
        return parse(changed)
    except UserError as error:
        raise with_location(error, raw, file, overrides, parse) from None


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield every value of nested mappings under its dotted name."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
