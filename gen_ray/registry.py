"""Registered models in MLflow: which version is the champion of a model, and what has to be better to become it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from gen_ray.comparison import BITS, HIGHER_IS_BETTER, provenance
from gen_ray.errors import RunError
from gen_ray.store import Store
from gen_ray.tracking import Row, alone, connect, row, told

CHAMPION, PREVIOUS = "champion", "previous"
ARTIFACT = "gen_ray.artifact"
"""Where among its run's artifacts a version has its own, ``model`` where nothing is said."""
MARGIN = 0.01
RUN, METRIC, VALUE, ERROR, PROVENANCE = (
    f"gen_ray.{key}" for key in ("run_id", "metric", "value", "standard_error", "provenance")
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run and one figure of it, with what that was measured with: a champion, or who wants to be it."""

    run_id: str
    mlflow_id: str
    metric: str
    value: float
    standard_error: float | None
    provenance: tuple[str, ...]
    version: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def figure(self) -> str:
        """Return the figure in words."""
        return f"{self.value:.4g}" + (f" ± {self.standard_error:.2g}" if self.standard_error is not None else "")


@dataclass(frozen=True)
class Verdict:
    """Who is champion now, and why in one line."""

    promoted: bool
    line: str


def judged_by(metric: str) -> str:
    """Return the metric by which a sweep's winner is held against the champion: its own where all runs have it."""
    return metric if metric.startswith("eval/") else BITS


def record(run: Row, metric: str) -> Record:
    """Return a run's own figure. Raise RunError where it has none."""
    if metric not in run.metrics:
        raise RunError(f"{run.run_id}: has no {metric} to be judged by")
    return Record(
        run_id=run.run_id,
        mlflow_id=run.mlflow_id,
        metric=metric,
        value=run.metrics[metric],
        standard_error=run.metrics.get(f"{metric}_standard_error"),
        provenance=provenance(run.tags, [metric]),
    )


def champion(store: Store, model: str) -> Record | None:
    """Return the champion of a model, None where there is none. Raise RunError where the store cannot be read."""
    with told(store):
        client = connect(store)
        found = _registered(client, model)
        version = found.aliases.get(CHAMPION) if found else None
        return _read(client.get_model_version(model, str(version))) if version else None


def promote_run(store: Store, model: str, run_id: str, metric: str, *, margin: float = MARGIN) -> Verdict:
    """Do what promote does for a run's own figure."""
    return promote(store, model, record(row(store, run_id), metric), margin=margin)


def promote(store: Store, model: str, candidate: Record, *, margin: float = MARGIN, force: bool = False) -> Verdict:
    """Make a candidate the champion if it beats the present one by the margin, in the metric's unit. Raise RunError.

    What does not become champion is no version either: the versions of a model are its champions, one after another.
    The former champion keeps the alias ``previous``. A champion that is promoted again has its tags renewed. force
    asks for no more than a finite figure.
    """
    with alone(store.uri, ".registry"):
        present = champion(store, model)
        if present is not None and present.run_id == candidate.run_id:
            return _renewed(store, model, present, candidate)
        reason = _against(candidate, None if force else present, margin)
        if present is not None and reason:
            return Verdict(
                False, f"champion of {model} stays version {present.version} (run {present.run_id}): {reason}"
            )
        if reason:
            return Verdict(False, f"{model} gets no champion: {reason}")
        version = _register(store, model, candidate, present)
    before = f"was {present.figure} of version {present.version}" if present else "the first"
    line = f"champion of {model}: version {version} (run {candidate.run_id}), {candidate.metric} {candidate.figure}"
    return Verdict(True, f"{line}, {before}")


def _against(candidate: Record, present: Record | None, margin: float) -> str:
    """Return what speaks against a candidate; empty where nothing does."""
    if not math.isfinite(candidate.value):
        return f"{candidate.metric} of run {candidate.run_id} is {candidate.value}"
    if present is None:
        return ""
    if (candidate.metric, candidate.provenance) != (present.metric, present.provenance):
        return f"run {candidate.run_id} is not comparable with it, {_difference(candidate, present)}"
    gain = present.value - candidate.value
    if candidate.metric in HIGHER_IS_BETTER:
        gain = -gain
    if gain > 0 and gain >= margin:
        return ""
    how = f"{candidate.metric} {candidate.figure} of run {candidate.run_id}"
    return f"{how} does not beat {present.figure} by {margin:g}"


def _difference(candidate: Record, present: Record) -> str:
    if candidate.metric != present.metric:
        return f"{candidate.metric} with {present.metric}"
    mine, its = (
        {key: value for key, _, value in (word.partition("=") for word in r.provenance)} for r in (candidate, present)
    )
    key = min(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
    name = key.rsplit(".", 1)[-1]
    return f"its {name} is {mine.get(key, 'unknown')}, the champion's {its.get(key, 'unknown')}"


def obstacle(store: Store, model: str, candidate: Record, *, margin: float = MARGIN) -> str:
    """Return what would keep a candidate from becoming champion now; empty where nothing would. Raise RunError."""
    present = champion(store, model)
    return "" if present and present.run_id == candidate.run_id else _against(candidate, present, margin)


def rollback(store: Store, model: str) -> Verdict:
    """Make the previous champion the champion again, and the present one the previous. Raise RunError without one."""
    with alone(store.uri, ".registry"), told(store):
        client = connect(store)
        found = _registered(client, model)
        aliases = found.aliases if found else {}
        if PREVIOUS not in aliases or CHAMPION not in aliases:
            raise RunError(f"{model}: has had no champion before this one to go back to")
        before, now = str(aliases[PREVIOUS]), str(aliases[CHAMPION])
        client.set_registered_model_alias(model, CHAMPION, before)
        client.set_registered_model_alias(model, PREVIOUS, now)
    return Verdict(True, f"champion of {model}: version {before} again, was version {now}")


def _renewed(store: Store, model: str, present: Record, candidate: Record) -> Verdict:
    with told(store):
        client = connect(store)
        for key, value in _tags(candidate).items():
            client.set_model_version_tag(model, present.version, key, value)
    return Verdict(True, f"champion of {model}: version {present.version} (run {present.run_id}) stays, tagged anew")


def _tags(candidate: Record) -> dict[str, str]:
    return {
        **candidate.tags,
        RUN: candidate.run_id,
        METRIC: candidate.metric,
        VALUE: repr(candidate.value),
        PROVENANCE: "\n".join(candidate.provenance),
        **({ERROR: repr(candidate.standard_error)} if candidate.standard_error is not None else {}),
    }


def _register(store: Store, model: str, candidate: Record, present: Record | None) -> str:
    with told(store):
        client = connect(store)
        if _registered(client, model) is None:
            client.create_registered_model(model)
        # the artifact as it is: no pickle of MLflow's own kinds of model
        source = f"runs:/{candidate.mlflow_id}/{candidate.tags.get(ARTIFACT, 'model')}"
        made = client.create_model_version(model, source, run_id=candidate.mlflow_id, tags=_tags(candidate))
        client.set_registered_model_alias(model, CHAMPION, made.version)
        if present is not None:
            client.set_registered_model_alias(model, PREVIOUS, present.version)
    return str(made.version)


def _registered(client: MlflowClient, model: str) -> RegisteredModel | None:
    found = client.search_registered_models(f"name='{model}'", max_results=1)
    return found[0] if found else None


def _read(version: ModelVersion) -> Record:
    """Return what a version's tags say. Raise RunError for one that this project has not made."""
    tags = version.tags
    try:
        return Record(
            run_id=tags[RUN],
            mlflow_id=str(version.run_id),
            metric=tags[METRIC],
            value=float(tags[VALUE]),
            standard_error=float(tags[ERROR]) if ERROR in tags else None,
            provenance=tuple(tags[PROVENANCE].splitlines()),
            version=str(version.version),
            tags=tags,
        )
    except KeyError as error:
        raise RunError(
            f"version {version.version} of {version.name} has no tag {error}: nothing can be held against it"
        ) from None
