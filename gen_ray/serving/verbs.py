"""The six verbs as routes; what differs between them is in their bodies, so each is one line here."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from gen_ray.serving.counter import Counter
from gen_ray.serving.documents import WITH_KEY, Latents, Samples, Scores, answering
from gen_ray.serving.json_body import JsonRoute
from gen_ray.serving.measuring import Decode, Encode, Reconstruct, Score
from gen_ray.serving.sampling import Impute, Sample

Name = Annotated[str, Path(description="A model's id, as /v1/models lists it.", max_length=200)]
NUMBERS = ("application/octet-stream",)
PICTURES = ("application/octet-stream", "image/png", "text/plain")
NOTHING = Sample()


def router(counter: Counter) -> APIRouter:
    """Return the routes POST /models/{name}/VERB."""
    routes = APIRouter(prefix="/v1/models/{name}", tags=["verbs"], dependencies=WITH_KEY, route_class=JsonRoute)
    drawn, streamed = answering(Samples, others=PICTURES), answering(Samples, others=PICTURES, stream=True)
    scored, encoded = answering(Scores, others=NUMBERS), answering(Latents, others=NUMBERS)

    @routes.post("/sample", response_class=Response, responses=streamed)
    async def sample(request: Request, name: Name, body: Sample = NOTHING) -> Response:
        """Draw n samples."""
        return await counter.serve(request, name, body)

    @routes.post("/impute", response_class=Response, responses=streamed)
    async def impute(request: Request, name: Name, body: Impute) -> Response:
        """Fill the holes of one instance, n times."""
        return await counter.serve(request, name, body)

    @routes.post("/score", response_class=Response, responses=scored)
    async def score(request: Request, name: Name, body: Score) -> Response:
        """Measure the likelihood of instances, in bits/dim."""
        return await counter.serve(request, name, body)

    @routes.post("/encode", response_class=Response, responses=encoded)
    async def encode(request: Request, name: Name, body: Encode) -> Response:
        """Find where instances lie in the latent space."""
        return await counter.serve(request, name, body)

    @routes.post("/decode", response_class=Response, responses=drawn)
    async def decode(request: Request, name: Name, body: Decode) -> Response:
        """Turn latent vectors into samples."""
        return await counter.serve(request, name, body)

    @routes.post("/reconstruct", response_class=Response, responses=drawn)
    async def reconstruct(request: Request, name: Name, body: Reconstruct) -> Response:
        """Encode instances and decode them again."""
        return await counter.serve(request, name, body)

    return routes
