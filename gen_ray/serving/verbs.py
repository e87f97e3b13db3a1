"""The routes of the six verbs, and their example requests. The verbs differ only in their bodies and responses."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Request
from starlette.responses import Response

from gen_ray.serving.handler import RequestHandler
from gen_ray.serving.openapi import WITH_KEY, LatentsSchema, SamplesSchema, ScoresSchema, responses
from gen_ray.serving.schemas import DecodeBody, EncodeBody, ImputeBody, ReconstructBody, SampleBody, ScoreBody
from gen_ray.serving.strict_json import JsonRoute

Name = Annotated[str, Path(description="A model's id, as /v1/models lists it.", max_length=200)]
NUMBERS = ("application/octet-stream",)
PICTURES = ("application/octet-stream", "image/png", "text/plain")
NOTHING = SampleBody()


def _body(verb: str) -> Any:
    return Body(openapi_examples=EXAMPLES[verb])


def router(handler: RequestHandler) -> APIRouter:
    """Return the routes POST /models/{name}/VERB."""
    routes = APIRouter(prefix="/v1/models/{name}", tags=["verbs"], dependencies=WITH_KEY, route_class=JsonRoute)
    drawn, streamed = responses(SamplesSchema, others=PICTURES), responses(SamplesSchema, others=PICTURES, stream=True)
    scored, encoded = responses(ScoresSchema, others=NUMBERS), responses(LatentsSchema, others=NUMBERS)

    @routes.post("/sample", response_class=Response, responses=streamed)
    async def sample(request: Request, name: Name, body: Annotated[SampleBody, _body("sample")] = NOTHING) -> Response:
        """Draw n samples."""
        return await handler.serve(request, name, body)

    @routes.post("/impute", response_class=Response, responses=streamed)
    async def impute(request: Request, name: Name, body: Annotated[ImputeBody, _body("impute")]) -> Response:
        """Complete the missing part of one instance, n times."""
        return await handler.serve(request, name, body)

    @routes.post("/score", response_class=Response, responses=scored)
    async def score(request: Request, name: Name, body: Annotated[ScoreBody, _body("score")]) -> Response:
        """Measure the likelihood of instances, in bits/dim."""
        return await handler.serve(request, name, body)

    @routes.post("/encode", response_class=Response, responses=encoded)
    async def encode(request: Request, name: Name, body: Annotated[EncodeBody, _body("encode")]) -> Response:
        """Encode instances: mean and log-variance of their latent variables."""
        return await handler.serve(request, name, body)

    @routes.post("/decode", response_class=Response, responses=drawn)
    async def decode(request: Request, name: Name, body: Annotated[DecodeBody, _body("decode")]) -> Response:
        """Decode latent vectors to samples."""
        return await handler.serve(request, name, body)

    @routes.post("/reconstruct", response_class=Response, responses=drawn)
    async def reconstruct(
        request: Request, name: Name, body: Annotated[ReconstructBody, _body("reconstruct")]
    ) -> Response:
        """Encode instances and decode them again."""
        return await handler.serve(request, name, body)

    return routes


ONE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAL0lEQVR42m3HMQ0AIAwAsAZlSEHK"
    "JCAJKUiYg3HAydfCTCCqwMh1QRTaywfou4ID2ecLMvm5a2QAAAAASUVORK5CYII="
)
"""A PNG of 8 x 8 grey pixels that show the digit 1."""
LOWER_HALF = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAE0lEQVR42mNgIAwY/0MZTAw4GQAjtQEHAjuD0gAAAABJRU5ErkJggg=="
"""A PNG of the same size, white in its lower half."""


def _example(summary: str, **body: Any) -> dict[str, Any]:
    return {"summary": summary, "value": body}


_PICTURE = _example("A picture", images=[ONE], resize=True)
EXAMPLES: dict[str, dict[str, Any]] = {
    "sample": {
        "json": _example("Four samples", n=4, seed=7),
        "grid": _example("Sixteen samples in one picture", n=16, seed=7, format="grid"),
    },
    "impute": {
        "picture": _example("A picture without its lower half", n=2, image=ONE, mask=LOWER_HALF, resize=True, seed=7),
        "text": _example("A text with missing characters", n=2, text="To be or not to b____", seed=7),
    },
    "score": {"picture": _PICTURE},
    "encode": {"picture": _PICTURE},
    "decode": {"origin": _example("The origin of a latent space of 8 dimensions", z=[[0.0] * 8])},
    "reconstruct": {"picture": _PICTURE},
}
"""Examples of each verb by name; /docs fills in the first. decode needs as many numbers as the model's latent_dim."""
