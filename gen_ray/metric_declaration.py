"""The declaration of a metric. The metrics themselves are in ``metrics``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ProvenancePart:
    """A part of a figure's provenance that the experiment determines."""

    attribute: str
    """Dotted attribute of the Experiment that has the value."""
    keys: Sequence[str]
    """The keys of an experiment that decide the value."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The declaration of a metric. Lower is better unless ``higher_is_better``."""

    name: str
    """The name in MLflow, PREFIX/KEY."""
    unit: str
    label: str
    """The noun in sentences and on axes."""
    higher_is_better: bool = False
    title: str = ""
    """Title of the column in tables of runs. Default: without a column."""
    form: str = "{:.5g}"
    """Format of a figure in tables."""
    progress: str = ""
    """Format of a figure on a progress line. Default: not shown there."""
    objective: bool = False
    """Whether a sweep can optimise the metric."""
    in_any_coding: bool = False
    """Whether figures of the same rows of a table may be ranked together where the intervals of numbers differ."""
    needs_features: bool = False
    """Whether the metric needs the features of images, which need labels of at least two classes."""
    needs_table: bool = False
    """Whether the metric is one of tables."""
    needs_held_out: bool = False
    """Whether the metric needs two rows of the split that samples are not compared with."""
    provenance: Mapping[str, ProvenancePart] = field(default_factory=dict)
    """The parts of the provenance that the experiment determines, by name."""
    provenance_of: str = ""
    """Name of the metric with which this one shares its provenance. Default: its own name."""

    @property
    def key(self) -> str:
        """Return the name without its prefix."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def description(self) -> str:
        """Return the name, unit and direction as text."""
        return f"{self.name}: {self.unit}, {'higher' if self.higher_is_better else 'lower'} is better"
