"""Runs side by side. Figures of different provenance are never ranked against each other."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gen_ray.errors import UserError, nearest
from gen_ray.tracking import Row

HIGHER_IS_BETTER = {"eval/precision", "eval/recall", "train/images_per_second"}
BITS, FRECHET = RANKED = ("eval/bits_per_dim", "eval/frechet_distance")
KIND = "gen_ray.kind"
SHORT = {"family": "family.name", "data": "data.source", "sweep": "gen_ray.sweep", "net": "family.net.name"}
"""What --where calls the keys that one asks for most."""
NOT_RANKED_BY = {"kind", "extractor_accuracy"}
"""Kinds of bound stand beside the number: each is an upper bound on the same quantity, so they are comparable."""


@dataclass(frozen=True)
class Table:
    """Runs that may be ranked together, best first."""

    title: str
    header: list[str]
    lines: list[list[str]]
    runs: list[Row]


def chosen(runs: Iterable[Row], where: Iterable[str]) -> list[Row]:
    """Return the runs, sweeps themselves left out, that fulfil every key=value. Raise UserError for a key none has."""
    found = [run for run in runs if run.tags.get(KIND) != "sweep"]
    for wish in where:
        key, separator, value = wish.partition("=")
        name = SHORT.get(key, key)
        known = {known for run in found for known in (*run.params, *run.tags)}
        if not separator or (found and name not in known):
            raise UserError(f"--where {wish}: no run has such a setting; {nearest(key, SHORT)}, or any dotted key")
        found = [run for run in found if value in (run.params.get(name), run.tags.get(name))]
    return found


def tables(runs: Iterable[Row], sort: str) -> list[Table]:
    """Return a table for each provenance of the metrics. Raise UserError for a metric that no run has."""
    finished = [run for run in runs if run.status == "FINISHED" and run.tags.get(KIND) != "sweep"]
    known = {name for run in finished for name in run.metrics}
    if finished and sort not in known:
        raise UserError(f"--sort {sort}: no finished run has it; {nearest(sort, known)}")
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for run in finished:
        groups[provenance(run.tags)].append(run)
    return [_table(group, sort) for group in groups.values()]


def provenance(tags: Mapping[str, str], metrics: Iterable[str] = RANKED) -> tuple[str, ...]:
    """Return what metrics were measured with, as far as figures that differ in it must not be ranked together."""
    prefixes = tuple(f"provenance.{metric}." for metric in metrics)
    found = sorted((key, value) for key, value in tags.items() if key.startswith(prefixes))
    return tuple(f"{key}={value}" for key, value in found if key.rsplit(".", 1)[-1] not in NOT_RANKED_BY)


def _table(runs: Sequence[Row], sort: str) -> Table:
    sign = -1 if sort in HIGHER_IS_BETTER else 1
    ordered = sorted(runs, key=lambda run: sign * run.metrics.get(sort, sign * float("inf")))
    first = ordered[0]
    how = {
        k.removeprefix("provenance."): v
        for k, v in first.tags.items()
        if k.startswith("provenance.eval/frechet_distance.")
    }
    against = {k.rsplit(".", 1)[-1]: v for k, v in how.items()}
    title = f"{first.params.get('data.source', '?')} ({first.params.get('data.fingerprint', '?')})"
    if against:
        title += (
            f": Fréchet distance of {against['samples']} samples to {against['reference_rows']} {against['reference']} "
            f"images in the features of {against['extractor']}; "
            f"{first.metrics['eval/frechet_floor_rows']:.0f} held-out images: {first.metrics['eval/frechet_floor']:.2f}"
        )
    header = ["run", "family", "bits/dim", "kind", "Fréchet", "precision", "recall", "s/image", "sampler", "steps"]
    return Table(title, header, [_line(run) for run in ordered], ordered)


def _line(run: Row) -> list[str]:
    def number(name: str, form: str) -> str:
        return form.format(run.metrics[name]) if name in run.metrics else "–"

    bits = number("eval/bits_per_dim", "{:.3f}") + " ± " + number("eval/bits_per_dim_standard_error", "{:.3f}")
    return [
        run.run_id,
        run.params.get("family.name", "?"),
        bits,
        run.tags.get("provenance.eval/bits_per_dim.kind", "–"),
        number("eval/frechet_distance", "{:.2f}"),
        number("eval/precision", "{:.3f}"),
        number("eval/recall", "{:.3f}"),
        number("sample/seconds_per_image", "{:.2g}"),
        run.tags.get("sampler", "–"),
        number("train/steps", "{:,.0f}"),
    ]
