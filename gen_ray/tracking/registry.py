"""Registered models in MLflow: the champion of a model, and the comparison by which a candidate replaces it."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from gen_ray.engine.evaluation.copy_gate import copying_reason
from gen_ray.errors import RunError, UserError, argument, nearest
from gen_ray.metrics import BITS_PER_DIM, objectives, sign, standard_error_of
from gen_ray.tracking import signing, versions
from gen_ray.tracking.comparison import provenance
from gen_ray.tracking.mlflow_client import exclusive
from gen_ray.tracking.runs import RunRow, connect, reader, row, translate_errors
from gen_ray.tracking.store import Store
from gen_ray.tracking.versions import CHAMPION, PREVIOUS, VersionRecord

MARGIN = 0.01
NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class PromotionResult:
    """The result of a promotion or rollback: whether the champion changed, and one line with the reason."""

    promoted: bool
    line: str


@dataclass(frozen=True)
class PromotionTerms:
    """The margin by which a candidate must be better than the champion. force requires only a finite figure."""

    margin: float
    force: bool


def promotion_metric(metric: str) -> str:
    """Return the metric for comparing a sweep's winner with the champion: the sweep's own if all runs have it."""
    return metric if metric.startswith("eval/") else BITS_PER_DIM.name


def record(run: RunRow, metric: str) -> VersionRecord:
    """Return the record of a run's figure of a metric. Raise RunError if the run lacks it."""
    if metric not in run.metrics:
        known = ", ".join(name for name in objectives() if name.startswith("eval/") and name in run.metrics) or "none"
        remedy = f"choose another with {argument('metric')} (measured: {known})"
        raise RunError(f"{run.run_id}: does not have {metric}; {remedy}")
    return VersionRecord(
        run_id=run.run_id,
        mlflow_id=run.mlflow_id,
        metric=metric,
        value=run.metrics[metric],
        standard_error=run.metrics.get(standard_error_of(metric)),
        provenance=provenance(run.tags, [metric]),
    )


def champion(store: Store, model: str, *, checked: bool = True) -> VersionRecord | None:
    """Return the champion of a model, or None. Its signature is checked if there is a key and checked is True.

    Raise RunError if the store cannot be read, or the champion's tags are incomplete or not signed with the key.
    """
    versions.check_name(model)
    if not store.exists:
        return None
    with translate_errors(store):
        client = reader(store)
        found = versions.registered(client, model)
        version = found.aliases.get(CHAMPION) if found else None
        if not version:
            return None
        present = versions.read(client.get_model_version(model, str(version)))
    if checked:
        signing.check(model, present.version, present.mlflow_id, present.tags)
    return present


def promote_run(
    store: Store, model: str, run_id: str, metric: str, *, margin: float = MARGIN, tags: Mapping[str, str] = NO_TAGS
) -> PromotionResult:
    """Promote a run by its figure of a metric, as ``promote`` does. tags become those of its version.

    A run whose recorded figures show copies of its training data is not promoted.
    """
    run = row(store, run_id)
    candidate = replace(record(run, metric), tags=tags)
    if reason := copying_reason(run.metrics):
        return PromotionResult(False, f"{model}: {run_id} is not promoted: {reason}")
    return promote(store, model, candidate, margin=margin)


def promote(
    store: Store, model: str, candidate: VersionRecord, *, margin: float = MARGIN, force: bool = False
) -> PromotionResult:
    """Make a candidate the champion if it beats the present one by the margin, in the metric's unit. Raise RunError.

    A candidate that does not become champion is not registered, so that all versions of a model were its champions.
    The former champion keeps the alias ``previous``. A champion that is promoted again gets new tags. force requires
    only a finite figure.
    """
    with exclusive(store.uri, ".registry"):
        present = champion(store, model, checked=not force)
        if present is not None and present.run_id == candidate.run_id:
            return _renewed(store, model, present, candidate)
        reason = _against(candidate, None if force else present, margin)
        if reason:
            return _refused(model, present, reason)
        with translate_errors(store):
            return _contest(connect(store), store, model, candidate, present, PromotionTerms(margin, force))


def _refused(model: str, present: VersionRecord | None, reason: str) -> PromotionResult:
    if present is None:
        return PromotionResult(False, f"{model} gets no champion: {reason}")
    return PromotionResult(
        False, f"champion of {model} stays version {present.version} (run {present.run_id}): {reason}"
    )


def _contest(
    client: MlflowClient,
    store: Store,
    model: str,
    candidate: VersionRecord,
    former: VersionRecord | None,
    terms: PromotionTerms,
) -> PromotionResult:
    """Register a candidate and make it champion, unless a concurrent promotion is better.

    An MLflow server sets an alias unconditionally, and the lock of ``promote`` covers only databases on this disk.
    Therefore each promotion registers its version as pending, reads the champion again, sets the alias, and then reads
    the versions that were pending meanwhile. The last promotion to read sees all of them, and sets the alias to the
    best one.
    """
    own = versions.register(client, model, candidate)
    number = str(own.version)  # a database returns a number, a server a text
    pending = {version.version for version in versions.competing_versions(client, model, own)}
    present, reason = champion(store, model, checked=not terms.force), ""
    if present is not None and present.version == number:  # another promotion has set the alias to this version
        present = former
    else:
        reason = _against(candidate, None if terms.force else present, terms.margin)
        if not reason:
            before = former if versions.is_pending(present) else present
            versions.set_champion(client, model, number, before)
            while not terms.force and (
                better := _better(versions.competing_versions(client, model, own, pending), candidate)
            ):
                if versions.set_champion(client, model, better.version, before):
                    present, reason = better, f"{better.metric} {better.figure} was promoted at the same time"
                    break
    if reason:
        client.delete_model_version(model, number)
        return _refused(model, present, reason)
    client.delete_model_version_tag(model, number, versions.PROMOTION)
    was = f"was {present.figure} of version {present.version}" if present else "the first"
    line = f"champion of {model}: version {number} (run {candidate.run_id}), {candidate.metric} {candidate.figure}"
    return PromotionResult(True, f"{line}, {was}")


def _better(rivals: Iterable[ModelVersion], candidate: VersionRecord) -> VersionRecord | None:
    """Return the best of the rivals that are comparable with a candidate and better, or None."""
    best = candidate
    for rival in rivals:
        with suppress(RunError):  # a version that this project has not made
            other = versions.read(rival)
            if not _against(other, best, 0.0):
                best = other
    return None if best is candidate else best


def _against(candidate: VersionRecord, present: VersionRecord | None, margin: float) -> str:
    """Return the reason why a candidate cannot replace the present champion, or an empty text."""
    if not math.isfinite(candidate.value):
        return f"{candidate.metric} of run {candidate.run_id} is {candidate.value}"
    if present is None:
        return ""
    if (candidate.metric, candidate.provenance) != (present.metric, present.provenance):
        return f"run {candidate.run_id} is not comparable with it, {_difference(candidate, present)}"
    gain = sign(candidate.metric) * (present.value - candidate.value)
    if gain > 0 and gain >= margin:
        return ""
    how = f"{candidate.metric} {candidate.figure} of run {candidate.run_id}"
    return f"{how} does not beat {present.figure} by {margin:g}"


def _difference(candidate: VersionRecord, present: VersionRecord) -> str:
    if candidate.metric != present.metric:
        return f"{candidate.metric} with {present.metric}"
    mine, its = (
        {key: value for key, _, value in (word.partition("=") for word in r.provenance)} for r in (candidate, present)
    )
    key = min(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
    name = key.rsplit(".", 1)[-1]
    return f"its {name} is {mine.get(key, 'unknown')}, the champion's {its.get(key, 'unknown')}"


def rejection_reason(store: Store, model: str, candidate: VersionRecord, *, margin: float = MARGIN) -> str:
    """Return the reason why a candidate would not become champion now, or an empty text. Raise RunError."""
    present = champion(store, model)
    return "" if present and present.run_id == candidate.run_id else _against(candidate, present, margin)


def rollback(store: Store, model: str) -> PromotionResult:
    """Make the previous champion the champion again, and the present one the previous.

    Raise UserError for a model that is not registered, RunError for one without a previous champion.
    """
    versions.check_name(model)
    store.check()
    with translate_errors(store):
        found = versions.registered(reader(store), model)
        if found is None:
            names = (known.name for known in reader(store).search_registered_models())
            raise UserError(f"is not a registered model; {nearest(model, names)}", field="rollback", value=model)
    with exclusive(store.uri, ".registry"), translate_errors(store):
        client = connect(store)
        found = versions.registered(client, model)
        aliases = found.aliases if found else {}
        if PREVIOUS not in aliases or CHAMPION not in aliases:
            raise RunError(f"{model}: does not have a previous champion to restore")
        before, now = str(aliases[PREVIOUS]), str(aliases[CHAMPION])
        client.set_registered_model_alias(model, CHAMPION, before)
        client.set_registered_model_alias(model, PREVIOUS, now)
    return PromotionResult(True, f"champion of {model}: version {before} again, was version {now}")


def _renewed(store: Store, model: str, present: VersionRecord, candidate: VersionRecord) -> PromotionResult:
    with translate_errors(store):
        client = connect(store)
        unsigned = {key: value for key, value in present.tags.items() if key != signing.SIGNATURE}
        tags = {**unsigned, **versions.tags_of(candidate)}
        for key, value in signing.signed(model, present.mlflow_id, tags).items():
            client.set_model_version_tag(model, present.version, key, value)
    return PromotionResult(
        True, f"champion of {model}: version {present.version} (run {present.run_id}) stays, with new tags"
    )
