"""The provenance of a figure: the part of its measurement that decides which figures may be ranked together.

Tables, champions and sweeps all use ``comparison_key``: two figures of one metric are ranked together only where it is
equal.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gen_ray.metrics import METRICS

if TYPE_CHECKING:  # families import torch, which takes seconds; `gen-ray compare` does not need it
    from gen_ray.experiment import Experiment

NOT_RANKED_BY = {"kind", "extractor_accuracy"}
"""Ignored keys. Each kind of bound is an upper bound on the same quantity, so figures of all kinds are comparable."""
BINARY = "-binary"
"""Suffix of the kind of a likelihood of binarised values."""


def planned_provenance(experiment: "Experiment") -> dict[str, dict[str, Any]]:
    """Return for each metric the part of its provenance that the experiment determines; the data determine the rest."""
    return {
        metric.name: {part: attrgetter(about.attribute)(experiment) for part, about in metric.provenance.items()}
        for metric in METRICS
        if metric.provenance
    }


def comparison_key(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a figure's provenance that two figures must share to be ranked together."""
    key_values = {key: str(value) for key, value in provenance.items() if key not in NOT_RANKED_BY}
    # Older runs did not record values.
    if "values" not in key_values and str(provenance.get("kind", "")).endswith(BINARY):
        key_values["values"] = "binary"
    return key_values


def reader_note(provenance: Mapping[str, Any]) -> str:
    """Return a note that a reader of a figure with this provenance needs, "" if none."""
    if provenance.get("reference") == "train":
        return "the reference is the training split, from which copies of training images have distance 0"
    return ""
