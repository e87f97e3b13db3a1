"""Export of compared runs as CSV and JSON, with all digits of every figure."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from gen_ray.tracking.comparison import RANKED, Table, measured_with
from gen_ray.tracking.runs import RunRow


def to_json(groups: Sequence[Table]) -> str:
    """Return tables as a JSON list, each with its title and its runs, best first. Non-finite figures become null."""
    tables = [{"title": group.title, "runs": [_record(run) for run in group.runs]} for group in groups]
    return json.dumps(tables, indent=1, ensure_ascii=False)


def to_csv(groups: Sequence[Table]) -> str:
    """Return tables as CSV with a line for each run, best first in its table. The column ``table`` counts from 1."""
    lines = [
        {"table": number, "run": run.run_id, **_words(run), **run.metrics, **_flat(run)}
        for number, group in enumerate(groups, start=1)
        for run in group.runs
    ]
    leading = ["table", "run", "mlflow_id", "family", "data", "sampler"]
    header = [*leading, *sorted({key for line in lines for key in line} - set(leading))]
    with io.StringIO() as text:
        writer = csv.DictWriter(text, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()


def _words(run: RunRow) -> dict[str, str]:
    return {
        "mlflow_id": run.mlflow_id,
        "family": run.params.get("family.name", ""),
        "data": run.params.get("data.source", ""),
        "sampler": run.tags.get("sampler", ""),
    }


def _record(run: RunRow) -> dict[str, Any]:
    metrics = {key: value if math.isfinite(value) else None for key, value in sorted(run.metrics.items())}
    how = {metric: measurement for metric in RANKED if (measurement := measured_with(run.tags, metric))}
    return {"run": run.run_id, **_words(run), "metrics": metrics, "provenance": how}


def _flat(run: RunRow) -> dict[str, str]:
    words = ((metric, *item) for metric in RANKED for item in measured_with(run.tags, metric).items())
    return {f"provenance.{metric}.{key}": value for metric, key, value in words}
