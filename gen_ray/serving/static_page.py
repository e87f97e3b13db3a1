"""Static files: the web page and the API documentation. They hold no data, so they need no key."""

from collections.abc import Callable, Coroutine, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    # the page creates images itself (data:, blob:); nothing is loaded from other sites, and none may frame the page
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}


DOCS_HEADERS = {
    **HEADERS,
    # Swagger UI adds style elements and shows icons from data: URLs
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    ),
}
SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
DOCUMENT = "/openapi.json"
"""The OpenAPI document. It needs no key, because it describes the API and not the models."""


def files() -> Mapping[str, Path]:
    """Return the served files by path; / and /docs are the index.html of their folders."""
    swagger = Path(str(resources.files("fastapi_offline") / "static"))
    found = {f"/{file.relative_to(FOLDER).as_posix()}": file for file in sorted(FOLDER.rglob("*")) if file.is_file()}
    indices = {"/": FOLDER / "index.html", "/docs": FOLDER / "docs" / "index.html"}
    return {**indices, **found, **{f"/docs/{name}": swagger / name for name in SWAGGER}}


def mount(app: FastAPI) -> None:
    """Add a route for each file. A mount at / would replace the 404s and 405s of the API."""
    for path, file in files().items():
        headers = DOCS_HEADERS if path == "/docs" else HEADERS
        app.add_api_route(path, _serving(file, headers), methods=["GET", "HEAD"], include_in_schema=False)


def _serving(file: Path, headers: Mapping[str, str]) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def serve() -> Response:
        return FileResponse(file, headers=headers)

    return serve
