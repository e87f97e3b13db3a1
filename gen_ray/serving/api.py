"""The app: models behind /v1, health, and the page. It knows desks and nothing of who is behind them."""

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

from gen_ray.serving import errors, static_page, verbs
from gen_ray.serving.access import FAULTS, Access
from gen_ray.serving.admission import AdmissionMiddleware
from gen_ray.serving.cards import shown, silent
from gen_ray.serving.errors import documented, standing
from gen_ray.serving.handler import Counter, Desks
from gen_ray.serving.middleware import HEALTH, Bodies, Hosts, Keys
from gen_ray.serving.openapi import READING_ERRORS, WITH_KEY, Health, Models
from gen_ray.serving.service import RefusedError
from gen_ray.serving.settings import Settings
from gen_ray.serving.verbs import Name


def build(desks: Desks, settings: Settings) -> FastAPI:
    """Return the app over desks, or over a function that returns those there are now.

    Every response has X-Request-ID; every error has the body {code, message, request_id}.
    """
    counter = Counter(desks, settings)
    app = FastAPI(
        title="gen_ray",
        summary="Sample, complete, score and encode with trained generative models.",
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=[  # the first is the outermost
            Middleware(Access),
            Middleware(Hosts, settings=settings),
            Middleware(Keys, settings=settings, open_paths=open_paths()),
            Middleware(AdmissionMiddleware, settings=settings),
            Middleware(Bodies, settings=settings),
        ],
    )
    errors.handle(app)
    for router in (_models(counter), verbs.router(counter), _health(counter)):
        app.include_router(router)
    static_page.mount(app)
    return app


def open_paths() -> frozenset[str]:
    """Return the paths that need no key: health, the pages, and the document of the API."""
    return frozenset({*HEALTH, *static_page.files(), static_page.DOCUMENT})


def _models(counter: Counter) -> APIRouter:
    routes = APIRouter(prefix="/v1/models", tags=["models"], dependencies=WITH_KEY)

    @routes.get("", responses={200: {"model": Models}, **documented(READING_ERRORS)})
    async def models() -> dict[str, list[dict[str, Any]]]:
        """List the models and what each of them can do."""
        return {"data": await asyncio.gather(*(_listed(counter, name) for name in counter.desks))}

    @routes.get("/{name}", responses=documented(READING_ERRORS))
    async def model(name: Name) -> dict[str, Any]:
        """Tell what one model can do."""
        return shown(await counter.card(name))

    return routes


def _health(counter: Counter) -> APIRouter:
    routes = APIRouter(prefix="/healthz", tags=["health"])

    @routes.get("/live")
    async def live() -> Health:
        """Tell that the server runs."""
        return Health(status="live")

    @routes.get("/ready", responses=documented([503]))
    async def ready() -> Health:
        """Tell whether every model is ready; which are not is for those with a key to know."""
        found = await asyncio.gather(*(_listed(counter, name) for name in counter.desks))
        if not found or not all(card["ready"] for card in found):
            raise standing(503, "not every model is ready")
        return Health(status="ready")

    return routes


async def _listed(counter: Counter, name: str) -> dict[str, Any]:
    try:
        return shown(await counter.card(name))
    except RefusedError:
        return silent(name)
    except Exception:
        FAULTS.exception("the card of %s cannot be had", name)
        return silent(name)
