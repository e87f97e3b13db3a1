"""The page and the API's document: static files, which hold no data and so need no key; both pages ask for one."""

from collections.abc import Callable, Coroutine, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    # an image may be made by the page itself; nothing comes from elsewhere, and no other site may frame it
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}


DOCS_HEADERS = {
    **HEADERS,
    # Swagger UI writes style elements, and shows icons from data: addresses
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    ),
}
SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
DOCUMENT = "/openapi.json"
"""What both pages and programs may read without a key: it describes the API, not the models."""


def files() -> Mapping[str, Path]:
    """Return the files by the path they are served at; / and /docs are the index.html of their folders."""
    swagger = Path(str(resources.files("fastapi_offline") / "static"))
    found = {f"/{file.relative_to(FOLDER).as_posix()}": file for file in sorted(FOLDER.rglob("*")) if file.is_file()}
    indices = {"/": FOLDER / "index.html", "/docs": FOLDER / "docs" / "index.html"}
    return {**indices, **found, **{f"/docs/{name}": swagger / name for name in SWAGGER}}


def mount(app: FastAPI) -> None:
    """Serve each file at a route of its own: a mount at / would swallow the 404s and 405s of the API."""
    for path, file in files().items():
        headers = DOCS_HEADERS if path == "/docs" else HEADERS
        app.add_api_route(path, _serving(file, headers), methods=["GET", "HEAD"], include_in_schema=False)


def _serving(file: Path, headers: Mapping[str, str]) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def serve() -> Response:
        return FileResponse(file, headers=headers)

    return serve
