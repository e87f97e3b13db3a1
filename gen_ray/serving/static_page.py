"""The page: static files beside this one, which hold no data and so need no key; the page itself asks for one."""

from collections.abc import Callable, Coroutine, Mapping
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


def files() -> Mapping[str, Path]:
    """Return the page's files by the path they are served at; / is index.html."""
    found = {f"/{file.relative_to(FOLDER).as_posix()}": file for file in sorted(FOLDER.rglob("*")) if file.is_file()}
    return {"/": FOLDER / "index.html", **found}


def mount(app: FastAPI) -> None:
    """Serve each file at a route of its own: a mount at / would swallow the 404s and 405s of the API."""
    for path, file in files().items():
        app.add_api_route(path, _serving(file), methods=["GET", "HEAD"], include_in_schema=False)


def _serving(file: Path) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def serve() -> Response:
        return FileResponse(file, headers=HEADERS)

    return serve
