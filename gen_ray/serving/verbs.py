"""The verbs of the API. A verb is one declaration, from which its route, checks, documentation and job are derived.

To add a verb, write the function that submits its job (see ``jobs.SubmitFunction``) and declare it in ``VERBS``. Its
request body is one of ``schemas`` or a subclass of ``RequestBody``; its result is one of ``result_schemas`` or a
subclass of ``ResultSchema`` with the names of the result's arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from pydantic import ValidationError

from gen_ray.family import Family, SupportsLatent
from gen_ray.serving import jobs
from gen_ray.serving.result_schemas import LatentsSchema, ResultSchema, SamplesSchema, ScoresSchema
from gen_ray.serving.schemas import (
    DecodeBody,
    EncodeBody,
    ImputeBody,
    ReconstructBody,
    RequestBody,
    SampleBody,
    ScoreBody,
)

DIGIT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAL0lEQVR42m3HMQ0AIAwAsAZlSEHK"
    "JCAJKUiYg3HAydfCTCCqwMh1QRTaywfou4ID2ecLMvm5a2QAAAAASUVORK5CYII="
)
"""A PNG of 8 x 8 grey pixels that show the digit 1. The server scales it, so that it fits every image model."""
LOWER_HALF = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAE0lEQVR42mNgIAwY/0MZTAw4GQAjtQEHAjuD0gAAAABJRU5ErkJggg=="
"""A PNG of the same size, white in its lower half."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """The declaration of POST /v1/models/{model}/NAME."""

    name: str
    description: str
    body: type[RequestBody]
    """Schema of the request."""
    result: type[ResultSchema]
    """Schema of a JSON response."""
    submit: jobs.SubmitFunction
    """Submits the job of a request to the model's batcher."""
    examples: dict[str, Any]
    """Requests in the API's documentation by name. The server accepts each unchanged; /docs fills in the first."""
    supported: Callable[[Family], bool] = lambda family: True
    """Whether a model of a family has this verb."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Return the names of the response formats."""
        return get_args(self.body.model_fields["format"].annotation)

    @property
    def streams(self) -> bool:
        """Return whether a request may ask for a stream."""
        return "stream" in self.body.model_fields

    @property
    def default_body(self) -> tuple[RequestBody, ...]:
        """Return the body of a request without one, or nothing if the verb needs a body."""
        try:
            return (self.body(),)
        except ValidationError:
            return ()


def supported_verbs(family: Family) -> tuple[str, ...]:
    """Return the names of the verbs that models of a family support."""
    return tuple(verb.name for verb in VERBS.values() if verb.supported(family))


def _example(summary: str, **body: Any) -> dict[str, Any]:
    return {"summary": summary, "value": body}


def _has_latent_space(family: Family) -> bool:
    return isinstance(family, SupportsLatent)


ROW: dict[str, Any] = {}
"""A row of a table without known values, which fits every table. Columns of the model can be added in /docs."""
PICTURE = {"picture": _example("A picture", images=[DIGIT], resize=True)}

_DECLARED = (
    Verb(
        name="sample",
        description="Draw n samples.",
        body=SampleBody,
        result=SamplesSchema,
        submit=jobs.submit_sample,
        examples={
            "json": _example("Four samples", n=4, seed=7),
            "grid": _example("Sixteen samples in one picture", n=16, seed=7, format="grid"),
        },
    ),
    Verb(
        name="impute",
        description="Complete the missing part of one instance, or of several rows of a table, n times.",
        body=ImputeBody,
        result=SamplesSchema,
        submit=jobs.submit_impute,
        examples={
            "picture": _example(
                "A picture without its lower half", n=2, image=DIGIT, mask=LOWER_HALF, resize=True, seed=7
            ),
            "text": _example("A text with missing characters", n=2, text="To be or not to b____", seed=7),
            "table": _example('A row of a table; add known values, such as "age": 39', n=2, rows=[ROW], seed=7),
        },
    ),
    Verb(
        name="score",
        description="Measure the likelihood of instances, in bits/dim; of rows of a table also in bits of each cell.",
        body=ScoreBody,
        result=ScoresSchema,
        submit=jobs.submit_score,
        examples={**PICTURE, "table": _example('A row of a table; add known values, such as "age": 39', rows=[ROW])},
    ),
    Verb(
        name="encode",
        description="Encode instances: mean and log-variance of their latent variables.",
        body=EncodeBody,
        result=LatentsSchema,
        submit=partial(jobs.submit_latent, jobs.encode),
        examples=PICTURE,
        supported=_has_latent_space,
    ),
    Verb(
        name="decode",
        description="Decode latent vectors to samples.",
        body=DecodeBody,
        result=SamplesSchema,
        submit=partial(jobs.submit_latent, jobs.decode),
        examples={"origin": _example("The origin of a latent space of 8 dimensions", z=[[0.0] * 8])},
        supported=_has_latent_space,
    ),
    Verb(
        name="reconstruct",
        description="Encode instances and decode them again.",
        body=ReconstructBody,
        result=SamplesSchema,
        submit=partial(jobs.submit_latent, jobs.reconstruct),
        examples=PICTURE,
        supported=_has_latent_space,
    ),
)
VERBS: dict[str, Verb] = {verb.name: verb for verb in _DECLARED}
