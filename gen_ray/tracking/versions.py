"""Versions of registered models in MLflow: their tags, and the aliases of the champion and the previous champion."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from gen_ray.configuration.field_types import NAME_PATTERN
from gen_ray.errors import RunError, UserError
from gen_ray.tracking import signing
from gen_ray.tracking.release import ARTIFACT

CHAMPION, PREVIOUS = "champion", "previous"
PROMOTION, PENDING = "gen_ray.promotion", "pending"
"""Tag of a version from its registration until its promotion is decided."""
TRIES, TRY_SECONDS = 5, 0.2
PENDING_SECONDS = 600
"""Age after which the promotion of a pending version counts as killed."""
EXISTS, GONE = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"
RUN, METRIC, VALUE, ERROR, PROVENANCE = (
    f"gen_ray.{key}" for key in ("run_id", "metric", "value", "standard_error", "provenance")
)


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """A champion or a candidate: a run and one of its figures, with the provenance of the figure."""

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
        """Return the figure with its standard error as text."""
        return f"{self.value:.4g}" + (f" ± {self.standard_error:.2g}" if self.standard_error is not None else "")


def is_pending(version: VersionRecord | None) -> bool:
    """Return whether the promotion of a version is undecided."""
    return version is not None and version.tags.get(PROMOTION) == PENDING


def competing_versions(
    client: MlflowClient, model: str, own: ModelVersion, pending: Iterable[str] = ()
) -> list[ModelVersion]:
    """Return the other versions that are pending, are in ``pending``, or were registered after own."""
    oldest = own.creation_timestamp - 1000 * PENDING_SECONDS
    others = [v for v in client.search_model_versions(f"name='{model}'") if v.version != own.version]
    return [
        other
        for other in others
        if (other.tags.get(PROMOTION) == PENDING and other.creation_timestamp > oldest)
        or other.version in pending
        or int(other.version) > int(own.version)
    ]


def set_champion(client: MlflowClient, model: str, version: str, former: VersionRecord | None) -> bool:
    """Set the alias of the champion, and that of the previous champion to former. Return whether the version exists."""
    found = set_alias(client, model, CHAMPION, version)
    if found and former is not None and former.version != version:
        set_alias(client, model, PREVIOUS, former.version)
    return found


def set_alias(client: MlflowClient, model: str, alias: str, version: str) -> bool:
    """Set an alias; return False where another promotion has deleted the version."""
    for remaining in reversed(range(TRIES)):
        try:
            client.set_registered_model_alias(model, alias, version)
        except MlflowException as error:
            if error.error_code == GONE:
                return False
            if not remaining:
                raise
            time.sleep(TRY_SECONDS)  # a server fails if two requests set a new alias at once
        else:
            return True
    raise AssertionError("unreachable")


def tags_of(candidate: VersionRecord) -> dict[str, str]:
    """Return the tags of a candidate's version."""
    return {
        **candidate.tags,
        RUN: candidate.run_id,
        METRIC: candidate.metric,
        VALUE: repr(candidate.value),
        PROVENANCE: "\n".join(candidate.provenance),
        **({ERROR: repr(candidate.standard_error)} if candidate.standard_error is not None else {}),
    }


def register(client: MlflowClient, model: str, candidate: VersionRecord) -> ModelVersion:
    """Create a pending version of a model, and the model if it does not exist."""
    if registered(client, model) is None:
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != EXISTS:  # another promotion has just created it
                raise
    # The source is the artifact folder. None of MLflow's model flavours is used, because they hold pickles.
    source = f"runs:/{candidate.mlflow_id}/{candidate.tags.get(ARTIFACT, 'model')}"
    tags = {**signing.signed(model, candidate.mlflow_id, tags_of(candidate)), PROMOTION: PENDING}
    return client.create_model_version(model, source, run_id=candidate.mlflow_id, tags=tags)


def check_name(model: str) -> None:
    """Raise UserError for a name that a registered model cannot have."""
    if not re.fullmatch(NAME_PATTERN, model):
        raise UserError(f"{model}: the name of a model may only have letters, digits, '.', '_' and '-'")


def registered(client: MlflowClient, model: str) -> RegisteredModel | None:
    """Return a registered model, or None. Raise UserError for an invalid name."""
    check_name(model)  # the name becomes part of the query
    found = client.search_registered_models(f"name='{model}'", max_results=1)
    return found[0] if found else None


def read(version: ModelVersion) -> VersionRecord:
    """Return the record in a version's tags. Raise RunError for a version that this project has not made."""
    tags = version.tags
    try:
        return VersionRecord(
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
            f"version {version.version} of {version.name} lacks the tag {error}: it cannot be compared"
        ) from None
