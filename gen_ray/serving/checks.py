"""Validation of a request against the model's card, before any work is started."""

from gen_ray.errors import nearest
from gen_ray.serving.answers import FORMATS
from gen_ray.serving.errors import http_error, invalid_request
from gen_ray.serving.sampling import ImputeBody, SampleBody, SamplingBody
from gen_ray.serving.schemas_base import Body
from gen_ray.serving.service import ModelCard
from gen_ray.serving.settings import ApiSettings

LISTED = 5_000_000
"""Maximum numbers in a response in format json: Python numbers take eight times the memory of an array."""


def check(body: Body, card: ModelCard, settings: ApiSettings) -> None:
    """Raise RequestRefusedError 503 if the model is not ready, 422 if it cannot do what the request asks."""
    if not card.ready:
        raise http_error(503)
    if body.verb not in card.verbs:
        raise invalid_request(f"the model does not support {body.verb}; supported: {', '.join(card.verbs)}")
    unsuitable = FORMATS[body.format].unsuitable(card.spec)
    if unsuitable:
        raise invalid_request(f"format: {unsuitable}")
    if (body.deadline_seconds or 0) > settings.longest_deadline_seconds:
        raise invalid_request(f"deadline_seconds: at most {settings.longest_deadline_seconds:g}")
    most = card.limits.get("n", body.count)
    if body.count > most:
        raise invalid_request(f"at most {most:g} instances for this model", code="too_much")
    rows = body.n if isinstance(body, SamplingBody) else body.count
    if body.format == "json" and body.verb not in ("score", "encode") and rows * card.spec.dims > LISTED:
        raise invalid_request(
            f"format: a json response has at most {LISTED:,} numbers; ask for npz, or for fewer samples",
            code="too_much",
        )
    if isinstance(body, SamplingBody):
        _check_sampling(body, card)


def _check_sampling(body: SamplingBody, card: ModelCard) -> None:
    known = card.imputers if isinstance(body, ImputeBody) else card.samplers
    name = (body.sampler or "").partition(":")[0]
    if body.sampler is not None and name not in known:
        raise invalid_request(f"sampler: unknown name; {nearest(name, known)}")
    if isinstance(body, SampleBody) and body.quality is not None and body.quality not in card.quality:
        raise invalid_request(
            "quality: this version has no curve; gen-ray promote measures one for models:/NAME@champion. "
            "Give sampler and steps"
        )
    for field, requested in (("n", body.n), ("steps", body.steps or 0)):
        if requested > card.limits.get(field, requested):
            raise invalid_request(f"{field}: at most {card.limits[field]:g} for this model", code="too_much")
