"""What a figure was measured with, as far as it decides which figures may be ranked together.

Tables, champions and sweeps all ask ``comparable``: two figures of one metric are ranked only where it is equal.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # families import torch, which takes seconds, and compare needs none of it
    from gen_ray.experiment import Experiment

BITS, FRECHET, FLOOR, PRECISION, RECALL = (
    f"eval/{name}" for name in ("bits_per_dim", "frechet_distance", "frechet_floor", "precision", "recall")
)
SAME_FEATURES = {PRECISION: FRECHET, RECALL: FRECHET}
"""Metrics with the provenance of another metric."""
NOT_RANKED_BY = {"kind", "extractor_accuracy"}
"""Kinds of bound are shown beside the number: each is an upper bound on the same quantity, so they are comparable."""
BINARY = "-binary"
"""How the kind of a likelihood of binarised values ends."""


def planned_provenance(experiment: "Experiment") -> dict[str, dict[str, Any]]:
    """Return by metric the part of its provenance that the experiment decides; the data decide the rest."""
    wanted = experiment.evaluation
    return {
        BITS: {"values": experiment.family.modelled_values, "rows": wanted.likelihood_rows},
        FRECHET: {"samples": wanted.samples, "neighbours": wanted.neighbours},
    }


def comparison_key(how: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a figure's provenance that two figures must share to be ranked together."""
    found = {key: str(word) for key, word in how.items() if key not in NOT_RANKED_BY}
    if "values" not in found and str(how.get("kind", "")).endswith(BINARY):  # of a run before values were recorded
        found["values"] = "binary"
    return found


def reader_note(how: Mapping[str, Any]) -> str:
    """Return what a reader of a figure with this provenance has to know besides, empty where there is nothing."""
    if how.get("reference") == "train":
        return "the reference is the training split, from which copies of training images have distance 0"
    return ""
