"""The FastAPI application: models below /v1, health checks, and the static files of the web page and of /docs."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Request, Security
from fastapi import Path as PathParameter
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.responses import FileResponse, Response

from gen_ray.serving import errors
from gen_ray.serving.access_log import ERROR_LOG, AccessLogMiddleware
from gen_ray.serving.errors import http_error, openapi_errors
from gen_ray.serving.handler import ModelServices, RequestHandler
from gen_ray.serving.inputs import JsonRoute
from gen_ray.serving.middleware import HEALTH, AdmissionMiddleware, BodyLimitMiddleware, HostMiddleware, KeyMiddleware
from gen_ray.serving.responses import FORMATS
from gen_ray.serving.result_schemas import HealthSchema, ModelsSchema, ResultSchema
from gen_ray.serving.service import RequestRefusedError, card_json, unavailable_json
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import VERBS, Verb

Name = Annotated[str, PathParameter(description="A model's id, as /v1/models lists it.", max_length=200)]
PAGE_FOLDER = Path(__file__).parent / "page"
PAGE_HEADERS = {
    # the page creates images itself (data:, blob:); nothing is loaded from other sites, and none may frame the page
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}
DOCS_HEADERS = {
    **PAGE_HEADERS,
    # Swagger UI adds style elements and shows icons from data: URLs
    "Content-Security-Policy": PAGE_HEADERS["Content-Security-Policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    ),
}
SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
OPENAPI_PATH = "/openapi.json"
"""The OpenAPI document. It needs no key, because it describes the API and not the models."""
ERRORS = (400, 401, 403, 404, 413, 415, 421, 422, 429, 499, 500, 503, 504)
READING_ERRORS = (400, 401, 404, 413, 421, 422, 500, 503)
WITH_KEY = (Security(HTTPBearer(auto_error=False, description="A key of GEN_RAY_API_KEYS.")),)
"""Only for the document: KeyMiddleware checks keys before the routes."""
BINARY = {"schema": {"type": "string", "format": "binary"}}
MEDIA: Mapping[str, Mapping[str, Any]] = {
    "application/json": {},
    "application/octet-stream": BINARY,
    "image/png": BINARY,
    "text/plain": {"schema": {"type": "string"}},
    "text/csv": {"schema": {"type": "string"}},
}
EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["preview", "result", "error"]},
        "data": {
            "type": "string",
            "description": "JSON: {done, total, images|texts|samples}; a result; {code, message, request_id, status}",
        },
    },
    "required": ["event", "data"],
}


def build(services: ModelServices, settings: ApiSettings) -> FastAPI:
    """Return the app for model services by name, or for a function that returns the current ones.

    Every response has X-Request-ID; every error has the body {code, message, request_id}.
    """
    handler = RequestHandler(services, settings)
    app = FastAPI(
        title="gen_ray",
        summary="Sample, complete, score and encode with trained generative models.",
        docs_url=None,  # FastAPI's page loads its scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        middleware=[  # the first is the outermost
            Middleware(AccessLogMiddleware),
            Middleware(HostMiddleware, settings=settings),
            Middleware(KeyMiddleware, settings=settings, open_paths=open_paths()),
            Middleware(AdmissionMiddleware, settings=settings),
            Middleware(BodyLimitMiddleware, settings=settings),
        ],
    )
    errors.install_handlers(app)
    for router in (_models(handler), _verbs(handler), _health(handler)):
        app.include_router(router)
    mount_static_files(app)
    return app


def open_paths() -> frozenset[str]:
    """Return the paths that need no key: health checks, the pages, and the OpenAPI document."""
    return frozenset({*HEALTH, *static_files(), OPENAPI_PATH})


def _models(handler: RequestHandler) -> APIRouter:
    routes = APIRouter(prefix="/v1/models", tags=["models"], dependencies=WITH_KEY)

    @routes.get("", responses={200: {"model": ModelsSchema}, **openapi_errors(READING_ERRORS)})
    async def models() -> dict[str, list[dict[str, Any]]]:
        """List the models with their capabilities."""
        return {"data": await asyncio.gather(*(_listed(handler, name) for name in handler.services))}

    @routes.get("/{name}", responses=openapi_errors(READING_ERRORS))
    async def model(name: Name) -> dict[str, Any]:
        """Return the capabilities of one model."""
        return card_json(await handler.card(name))

    return routes


def _verbs(handler: RequestHandler) -> APIRouter:
    """Return the routes POST /v1/models/{name}/VERB, which are derived from the declarations of the verbs."""
    routes = APIRouter(prefix="/v1/models/{name}", tags=["verbs"], dependencies=WITH_KEY, route_class=JsonRoute)
    for verb in VERBS.values():
        media_types = [FORMATS[name].media_type for name in verb.formats]
        routes.add_api_route(
            f"/{verb.name}",
            _verb_endpoint(handler, verb),
            methods=["POST"],
            name=verb.name,
            description=verb.description,
            response_class=Response,
            responses=_documented(verb.result, media_types, stream=verb.streams),
        )
    return routes


def _documented(result: type[ResultSchema], media_types: Iterable[str], *, stream: bool) -> dict[int | str, Any]:
    """Return the responses of a verb: 200 in the media types of its formats, and all errors."""
    media = {kind: MEDIA[kind] for kind in media_types}
    events = {"text/event-stream": {"itemSchema": EVENT}} if stream else {}
    content = {"application/json": {}, **media, **events}  # readers take the first as the default
    return {200: {"model": result, "content": content}, **openapi_errors(ERRORS)}


def _verb_endpoint(handler: RequestHandler, verb: Verb) -> Callable[..., Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request, name: Name, body: Any) -> Response:
        return await handler.serve(request, name, verb, body)

    # FastAPI reads the schema from the annotation, and from the default that the body may be left out
    endpoint.__annotations__["body"] = Annotated[verb.body, Body(openapi_examples=verb.examples)]
    endpoint.__defaults__ = verb.default_body
    return endpoint


def _health(handler: RequestHandler) -> APIRouter:
    routes = APIRouter(prefix="/healthz", tags=["health"])

    @routes.get("/live")
    async def live() -> HealthSchema:
        """Return 200 while the server runs."""
        return HealthSchema(status="live")

    @routes.get("/ready", responses=openapi_errors([503]))
    async def ready() -> HealthSchema:
        """Return 200 if every model is ready, otherwise 503. GET /v1/models lists their states; it needs a key."""
        found = await asyncio.gather(*(_listed(handler, name) for name in handler.services))
        if not found or not all(card["ready"] for card in found):
            raise http_error(503, "not every model is ready")
        return HealthSchema(status="ready")

    return routes


async def _listed(handler: RequestHandler, name: str) -> dict[str, Any]:
    try:
        return card_json(await handler.card(name))
    except RequestRefusedError:
        return unavailable_json(name)
    except Exception:
        ERROR_LOG.exception("cannot get the card of model %s", name)
        return unavailable_json(name)


def static_files() -> Mapping[str, Path]:
    """Return the served files by path; / and /docs are the index.html of their folders."""
    swagger = Path(str(resources.files("fastapi_offline") / "static"))
    found = {
        f"/{file.relative_to(PAGE_FOLDER).as_posix()}": file
        for file in sorted(PAGE_FOLDER.rglob("*"))
        if file.is_file()
    }
    indices = {"/": PAGE_FOLDER / "index.html", "/docs": PAGE_FOLDER / "docs" / "index.html"}
    return {**indices, **found, **{f"/docs/{name}": swagger / name for name in SWAGGER}}


def mount_static_files(app: FastAPI) -> None:
    """Add a route for each file. A mount at / would replace the 404s and 405s of the API."""
    for path, file in static_files().items():
        headers = DOCS_HEADERS if path == "/docs" else PAGE_HEADERS
        app.add_api_route(path, _file_route(file, headers), methods=["GET", "HEAD"], include_in_schema=False)


def _file_route(file: Path, headers: Mapping[str, str]) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def serve() -> Response:
        return FileResponse(file, headers=headers)

    return serve
