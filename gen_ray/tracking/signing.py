"""Signatures of registered versions, by a key that only promotion and serving have.

With signatures the MLflow server need not be trusted.
"""

import hmac
import json
import os
from collections.abc import Mapping

from gen_ray.errors import RunError, UserError, argument

ENVIRONMENT, SIGNATURE, OURS = "GEN_RAY_SIGNING_KEY", "gen_ray.signature", "gen_ray."
UNSIGNED = {SIGNATURE, "gen_ray.promotion"}
"""Tags that a signature does not cover: the signature, and the state of a promotion in progress."""
SHORTEST = 32


def key() -> bytes | None:
    """Return the key of the environment, or None. Raise UserError for a key shorter than SHORTEST characters."""
    value = os.environ.get(ENVIRONMENT)
    if value is None:
        return None
    value = value.strip()  # a Kubernetes Secret made from a file has a final newline
    if len(value) < SHORTEST:
        raise UserError(
            f"{ENVIRONMENT}: has {len(value)} characters and needs {SHORTEST}; python -c 'import secrets; "
            f"print(secrets.token_urlsafe(32))' makes one, and without signatures the variable must be unset"
        )
    return value.encode()


def require() -> None:
    """Raise UserError if the environment lacks the key."""
    if key() is None:
        raise UserError(f"{ENVIRONMENT}: is set where the application was started and not for its replicas")


def signed(model: str, mlflow_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a version of a model, with their signature if there is a key. Raise UserError."""
    secret = key()
    return dict(tags) if secret is None else {**tags, SIGNATURE: _signature(secret, model, mlflow_id, tags)}


def check(model: str, version: str, mlflow_id: str, tags: Mapping[str, str]) -> None:
    """Raise RunError if there is a key and the tags of a version were not signed with it."""
    secret = key()
    if secret is None:
        return
    if not hmac.compare_digest(tags.get(SIGNATURE, "").encode(), _signature(secret, model, mlflow_id, tags).encode()):
        raise RunError(
            f"version {version} of {model}: its tags are not signed with this {ENVIRONMENT}; they were changed, or "
            f"it was promoted without the key: promote it again with {argument('force')}"
        )


def _signature(secret: bytes, model: str, mlflow_id: str, tags: Mapping[str, str]) -> str:
    """Return the HMAC-SHA256 of a version: its model, its MLflow run and all tags of this project."""
    ours = sorted((name, value) for name, value in tags.items() if name.startswith(OURS) and name not in UNSIGNED)
    return hmac.digest(secret, json.dumps([model, mlflow_id, ours]).encode(), "sha256").hex()
