"""The whole typed configuration of one run: one YAML file plus ``key=value`` overrides, every key owned by somebody."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, SerializeAsAny, model_validator

from gen_ray import families, storage
from gen_ray.config import Config, validated
from gen_ray.datasets.source import SourceOptions
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.family import Chain, Family, FamilyConfig

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What may become part of a path: no separators, no leading dot, no control characters."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Count = Annotated[int, Field(ge=1)]


def _root(where: object) -> Path:
    if not isinstance(where, str) and not hasattr(where, "joinpath"):
        raise ValueError(f"a path or URI is expected, not {where!r}")
    try:
        return storage.root(str(where))
    except UserError as error:
        raise ValueError(str(error).removeprefix("storage.root=")) from None


Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Root = Annotated[Path, PlainValidator(_root), PlainSerializer(str)]
"""A folder or a URI; an object store's paths are no pathlib.Path, but know the same verbs."""


class Data(Config):
    """Which data set, and how it is batched."""

    source: str = "digits"
    root: Folder | None = None
    options: SourceOptions = SourceOptions()
    on_bad_row: str = Field("stop", pattern=r"^(stop|skip:\d+)$")
    batch_size: int = Field(128, ge=1)
    cache: Literal["auto", "memory", "stream"] = "auto"


class Training(Config):
    """How the weights are found."""

    epochs: int = Field(40, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    learning_rate: float = Field(2e-4, gt=0, lt=10)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["constant", "cosine", "linear"] = "constant"
    gradient_clip_norm: float | None = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    ema_snapshots: int = Field(8, ge=0, description="times at which averages of any length can be made from are kept")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    accumulate: int = Field(1, ge=1)
    compile: bool = Field(False, description="torch.compile; how long that takes is recorded")
    recompute: bool = Field(False, description="a deep net's activations anew for the gradient: time for memory")
    log_every_steps: int = Field(50, ge=1)
    validate_every_epochs: int = Field(1, ge=1)
    sample_every_epochs: int = Field(10, ge=1)
    checkpoint_every_seconds: float = Field(60.0, ge=0)


class Scaling(Config):
    """Where it runs. ``auto``: the machine's cores divided among the workers, and a GPU each where there are enough."""

    num_workers: Count | tuple[Count, Count] = Field(1, description="or [fewest, most]: it goes on with what there is")
    cpus_per_worker: Count | Literal["auto"] = "auto"
    use_gpu: bool | Literal["auto"] = "auto"
    max_failures: int = Field(3, ge=0, description="lost workers after which a run is given up")
    hang_seconds: float = Field(60.0, ge=1, description="a worker that says nothing for so long counts as lost")
    grow_seconds: float = Field(60.0, gt=0, description="how often a run that could have more workers looks for room")
    priority: float = Field(1.0, gt=0, description="what share it has of a cluster on which others wait too")

    @property
    def fewest_workers(self) -> int:
        """Return how many workers it needs to go on."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Return how many workers it has where there is room. Its batches are cut for so many, however many work."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def elastic(self) -> bool:
        """Return whether it may lose workers, or gain some, and go on."""
        return not isinstance(self.num_workers, int)

    @model_validator(mode="after")
    def _no_more_than_most(self) -> "Scaling":
        if self.fewest_workers > self.most_workers:
            raise ValueError(f"num_workers=[{self.fewest_workers}, {self.most_workers}]: is [fewest, most]")
        return self


class Evaluation(Config):
    """What is measured when training is done."""

    samples: int = Field(2000, ge=2)
    sampler: str | None = None
    steps: int | None = Field(None, ge=1)
    likelihood_rows: int = Field(1000, ge=2)
    effort: int | None = Field(None, ge=1)
    neighbours: int = Field(5, ge=1)
    checkpoint: Literal["last", "best"] = Field("last", description="which one's weights: best by validation loss")


class Storage(Config):
    """Where runs, checkpoints, prepared data and the default MLflow store live: a folder, or s3://bucket/prefix."""

    root: Root = Field(default_factory=storage.default)


class Tracking(Config):
    """Which MLflow server and experiment; uri null: MLFLOW_TRACKING_URI, else a SQLite store below storage.root."""

    uri: str | None = None
    experiment: Name = "gen_ray"


class Experiment(Config):
    """One run. Made by ``parse`` or ``load``, which tell mistakes in one line."""

    name: Name
    data: Data = Data()
    family: SerializeAsAny[FamilyConfig]
    training: Training = Training()
    scaling: Scaling = Scaling()
    evaluation: Evaluation = Evaluation()
    storage: Storage = Field(default_factory=Storage)
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _lanes_divide_the_batch(self) -> "Experiment":
        lanes = self.scaling.most_workers * self.training.accumulate
        if self.data.batch_size % lanes:
            raise ValueError(
                f"data.batch_size={self.data.batch_size} must be a multiple of "
                f"scaling.num_workers × training.accumulate = {lanes}"
            )
        return self

    def model(self, spec: DataSpec) -> Family:
        """Return the family bound to a data set. Raise UserError where they or the evaluation do not go together."""
        family = families.find(self.family.name)(self.family, spec)
        try:
            self.chain(family)
        except UserError as error:
            raise UserError(f"evaluation.{error}") from None
        return family

    def chain(self, family: Family, sampler: str | None = None, steps: int | None = None) -> Chain:
        """Return the chain of a sampler and steps; what is left out is the evaluation's, else the family's default."""
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
    """Return the experiment that a mapping describes. Raise UserError: one line naming the key and the remedy."""
    section = raw.get("family", {})
    section = {"name": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping) or "name" not in section:
        raise UserError(f"family.name: is required; known: {', '.join(families.names())}")
    family = families.find(str(section["name"]))
    return validated(Experiment, {**raw, "family": validated(family.Config, section, path="family")})


def load(file: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Return the experiment of a YAML file changed, in order, by overlays and ``dotted.key=value`` overrides.

    An overlay is a further YAML file of the same sections; what it says wins. Raise UserError.
    """
    raw = read_yaml(file)
    for override in overrides:
        if override.endswith((".yaml", ".yml")) and "=" not in override:
            merge(raw, read_yaml(Path(override)))
        else:
            apply(raw, override)
    return parse(raw)


def merge(raw: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Lay a mapping over another, section by section; one that names another component replaces the first whole."""
    for key, value in overlay.items():
        below = raw.get(key)
        if isinstance(value, Mapping) and isinstance(below, str):
            below = raw[key] = {"name": below}
        if isinstance(value, Mapping) and isinstance(below, dict) and value.get("name") in (None, below.get("name")):
            merge(below, value)
        else:
            raw[key] = value


def apply(raw: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value``, its value read as YAML."""
    key, separator, value = override.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise UserError(f"{override!r}: an override is written key=value, e.g. training.epochs=10")
    try:
        put(raw, key.strip(), yaml.load(value, _Loader))  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, RecursionError):
        put(raw, key.strip(), value)


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key. Raise UserError where something above it is a single value."""
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        below = node.get(parent)
        if isinstance(below, str):  # ``schedule: cosine`` is short for ``schedule: {name: cosine}``
            below = {"name": below}
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise UserError(f"{key}: {parent} is a single value, it has no key below it")
        node[parent] = below
        node = below
    node[last] = value


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses anchors and repeated keys: a config is small and says each thing once."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice.pop()!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raise UserError with file and line."""
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text") from None
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}: holds no settings (a mapping such as 'name: …' is expected)")
    return raw


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield every value of nested mappings under its dotted name."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
