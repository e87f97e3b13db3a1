"""Tables of runs. Figures of different provenance are never ranked together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gen_ray.engine.evaluation.provenance import comparison_key, reader_note
from gen_ray.errors import UserError, nearest
from gen_ray.metrics import (
    BITS_PER_DIM,
    FRECHET_AT_FLOOR_ROWS,
    FRECHET_DISTANCE,
    FRECHET_FLOOR,
    FRECHET_FLOOR_ROWS,
    HEADLINE,
    METRICS,
    declared,
    provenance_of,
    sign,
    standard_error_of,
)
from gen_ray.tracking.runs import RunRow

RANKED = tuple(metric.name for metric in HEADLINE)
BITS, FRECHET, AT_FLOOR = BITS_PER_DIM.name, FRECHET_DISTANCE.name, FRECHET_AT_FLOOR_ROWS.name
FLOOR, FLOOR_ROWS = FRECHET_FLOOR.name, FRECHET_FLOOR_ROWS
KIND, UNMEASURED = "gen_ray.kind", "gen_ray.unmeasured"
SHORT = {"family": "family.name", "data": "data.source", "sweep": "gen_ray.sweep", "net": "family.net.name"}
"""Short names of frequent keys in conditions."""


def columns() -> dict[str, str]:
    """Return the column titles by metric or attribute of a run. The figures of the training come last."""
    titles = {metric.name: metric.title for metric in METRICS if metric.title}
    training = {name: titles.pop(name) for name in list(titles) if name.startswith("train/")}
    leading = {"run": "run", "family": "family", BITS: titles.pop(BITS), "kind": "kind"}
    return {**leading, **titles, "sampler": "sampler", **training}


def dispensable() -> list[str]:
    """Return the columns in the order in which they are omitted on a narrow terminal: the last one first."""
    return [name for name in reversed(columns()) if name != "run" and name not in RANKED]


@dataclass(frozen=True)
class Table:
    """Runs that may be ranked together, best first.

    ``dispensable``: columns that may be omitted, in this order. ``descriptions``: of each column, may be empty.
    """

    title: str
    header: list[str]
    lines: list[list[str]]
    runs: list[RunRow]
    dispensable: Sequence[str]
    descriptions: Sequence[str]


def chosen(runs: Iterable[RunRow], where: Iterable[str]) -> list[RunRow]:
    """Return the runs, without sweeps, that match every key=value. Raise UserError for a key that no run has."""
    found = [run for run in runs if run.tags.get(KIND) != "sweep"]
    for condition in where:
        key, separator, value = condition.partition("=")
        name = SHORT.get(key, key)
        known = {known for run in found for known in (*run.params, *run.tags)}
        if not separator or (found and name not in known):
            raise UserError(
                f"no run has such a setting; {nearest(key, SHORT)}, or any dotted key", field="where", value=condition
            )
        found = [run for run in found if value in (run.params.get(name), run.tags.get(name))]
    return found


def tables(runs: Iterable[RunRow], sort: str) -> list[Table]:
    """Return a table for each provenance of the metrics. Raise UserError for a metric that no run has."""
    finished = [run for run in runs if run.status == "FINISHED" and run.tags.get(KIND) != "sweep"]
    known = {name for run in finished for name in run.metrics}
    if finished and sort not in known:
        raise UserError(f"no finished run has it; {nearest(sort, known)}", field="sort", value=sort)
    groups: dict[tuple[str, ...], list[RunRow]] = defaultdict(list)
    for run in finished:
        groups[provenance(run.tags)].append(run)
    return [_table(group, sort) for group in groups.values()]


def measured_with(tags: Mapping[str, str], metric: str) -> dict[str, str]:
    """Return the provenance of a metric from a run's tags."""
    prefix = f"provenance.{provenance_of(metric)}."
    return {key.removeprefix(prefix): value for key, value in sorted(tags.items()) if key.startswith(prefix)}


def provenance(tags: Mapping[str, str], metrics: Iterable[str] = RANKED) -> tuple[str, ...]:
    """Return the part of the provenance of metrics that must be equal for figures to be ranked together."""
    names = [provenance_of(metric) for metric in metrics]
    return tuple(
        f"provenance.{name}.{key}={value}"
        for name in names
        for key, value in sorted(comparison_key(measured_with(tags, name)).items())
    )


def differences(groups: Iterable[Table]) -> str:
    """Return the parts of the provenance in which tables differ, with their values."""
    distinct: dict[str, dict[str, None]] = defaultdict(dict)
    each = [dict(word.split("=", 1) for word in provenance(group.runs[0].tags)) for group in groups]
    for key in sorted({key for words in each for key in words}):
        for words in each:
            distinct[key.removeprefix("provenance.")][words.get(key, "unknown")] = None
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in distinct.items() if len(values) > 1)


def _table(runs: Sequence[RunRow], sort: str) -> Table:
    direction = sign(sort)
    ordered = sorted(runs, key=lambda run: direction * run.metrics.get(sort, direction * float("inf")))
    floor = _floor_column(ordered)
    names = {**columns(), AT_FLOOR: floor}
    needed = ("run", BITS, sort)
    keys = [key for key in names if names[key] and (key in needed or any(_cell(run, key) != "–" for run in ordered))]
    if sort not in keys:
        keys.insert(2, sort)
    lines = [[_cell(run, key) for key in keys] for run in ordered]
    return Table(
        title=_title(ordered[0], floor),
        header=[names.get(key, key) for key in keys],
        lines=lines,
        runs=ordered,
        dispensable=[names[key] for key in dispensable() if key in keys and key != sort],
        descriptions=[declared(key).description if "/" in key else "" for key in keys],
    )


def _floor_column(runs: Iterable[RunRow]) -> str:
    """Return the title of the column to compare with the floor, empty if this is the distance itself."""
    differs = [run for run in runs if run.metrics.get(AT_FLOOR, run.metrics.get(FRECHET)) != run.metrics.get(FRECHET)]
    return f"{FRECHET_AT_FLOOR_ROWS.title} {differs[0].metrics[FLOOR_ROWS]:.0f}" if differs else ""


def _title(run: RunRow, shared: str) -> str:
    title = f"{run.params.get('data.source', '?')} ({run.params.get('data.fingerprint', '?')})"
    values = comparison_key(measured_with(run.tags, BITS)).get("values", "stored")
    if values != "stored":
        title += f": bits/dim of {values} values"
    how = measured_with(run.tags, FRECHET)
    if not how:
        return title
    title += (
        f": Fréchet distance of {how.get('samples', '?')} samples to {how.get('reference_rows', '?')} "
        f"{how.get('reference', '?')} images in the features of {how.get('extractor', '?')}"
    )
    same = run.metrics.get(FLOOR_ROWS) == float(how.get("samples", 0))
    if FLOOR in run.metrics and (shared or same):
        note = f" (samples: column '{shared}')" if shared else ""
        title += f"; {run.metrics[FLOOR_ROWS]:.0f} held-out images: {run.metrics[FLOOR]:.2f}{note}"
    return f"{title}; {reader_note(how)}" if reader_note(how) else title


def _cell(run: RunRow, column: str) -> str:
    words = {
        "run": run.run_id,
        "family": run.params.get("family.name", "?"),
        "kind": run.tags.get(f"provenance.{BITS}.kind", "–"),
        "sampler": run.tags.get("sampler", "–"),
    }
    if column in words:
        return words[column]
    value, error = run.metrics.get(column), run.metrics.get(standard_error_of(column))
    if value is None:
        return "–"
    form = declared(column).form
    return form.format(value) + (f" ± {form.format(error)}" if error is not None else "")
