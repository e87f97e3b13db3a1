"""A fake server for tests of the page. Its models have no weights and give clearly different images.

It serves the page under the strictest content policy that the page must support, and records requests. A test can make
it require a key, be busy, respond slowly or respond with errors.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from PIL import Image
from sklearn.datasets import load_digits
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

import gen_ray.serving

PAGE = Path(gen_ray.serving.__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
VERSE = "shall i compare thee to a summer's day? thou art more lovely and more temperate: rough winds do shake"
LETTERS = " '?:abcdefghijklmnopqrstuvwxyz\n"
LENGTH = 64
LIMITS = {"n": 144, "steps": 1000, "work": 1e12}


@dataclass
class FakeServer:
    """The state of the server, set by a test, and the requests it received."""

    key: str | None = None
    busy_responses: int = 0
    """Number of the next requests that get the status 429."""
    retry_after: int = 1
    error: str | None = None
    """The message of the error response to every verb."""
    stream_error: str | None = None
    """The message of the error that ends a stream after its first preview."""
    delay_seconds: float = 0.02
    """The delay between two previews and before every response."""
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    disconnected_streams: int = 0
    """Number of streams that ended because the client disconnected."""

    def last(self, verb: str) -> dict[str, Any]:
        """Return the body of the last request of a verb."""
        return next(body for _, other, body in reversed(self.requests) if other == verb)

    def count(self, verb: str) -> int:
        return sum(other == verb for _, other, _ in self.requests)


class FakeServerError(Exception):
    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, headers
        self.body = {"code": code, "message": message, "request_id": "feed5eed"}


@dataclass(frozen=True)
class Model:
    """A fake model: one image or text per seed; the first preview is noise, the last one nearly the sample."""

    id: str
    shape: tuple[int, ...]
    family: str
    latent_dim: int | None = None
    letters: str = ""

    @property
    def is_text(self) -> bool:
        return self.letters != ""

    def sample(self, seed: int, row: int) -> np.ndarray:
        rng = np.random.default_rng([seed, row])
        if self.kind == "samples":
            return rng.integers(0, 300, self.shape)
        if self.is_text:
            at = rng.integers(len(VERSE))
            return np.array([LETTERS.index(letter) for letter in (VERSE * 2)[at : at + LENGTH]])
        if self.shape[0] == 3:
            return random_waves(rng, self.shape)
        return digits()[rng.integers(len(digits()))][None]

    @property
    def kind(self) -> str:
        """Return the field of a preview that holds the samples."""
        return "texts" if self.is_text else "images" if len(self.shape) == 3 else "samples"

    def preview_of(self, x: np.ndarray, share: float, seed: int, row: int) -> np.ndarray:
        rng = np.random.default_rng([seed, row, 7])
        if self.kind != "images":
            return np.where(rng.random(x.shape) < share, x, -1)
        return (share * x + (1 - share) * rng.integers(0, 256, x.shape)).astype(np.uint8)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return the mean of ten digits on a circle, weighted by their distance from the first two entries of z."""
        means = np.stack([digits()[targets() == digit].mean(0) for digit in range(10)])
        angle = np.arange(10) * 2 * np.pi / 10
        places = 1.8 * np.stack([np.cos(angle), np.sin(angle)], 1)
        weights = np.exp(-4 * ((places - z[:2]) ** 2).sum(1))
        return (np.einsum("d,dhw->hw", weights / weights.sum(), means)[None]).astype(np.uint8)

    def show(self, x: np.ndarray) -> str | list[int]:
        if self.is_text:
            return "".join((self.letters + "·")[token] for token in x)
        return png(x) if self.kind == "images" else x.tolist()

    def card(self) -> dict[str, Any]:
        slow = {"default_steps": 50, "nfe_per_step": 1, "options": {}}
        one = {"default_steps": 1, "nfe_per_step": 1, "options": {}}
        multi_step = {
            "ddim": {**slow, "summary": "Song et al. 2021, eq. 12", "options": {"eta": [0.0, 1.0]}},
            "dpmpp_2m": {**slow, "default_steps": 20, "least_steps": 2, "summary": "Lu et al. 2022, alg. 2"},
            "ancestral": {**slow, "default_steps": 1000, "summary": "Ho et al. 2020, alg. 2"},
        }
        one_step = {"mean": {**one, "summary": "Kingma & Welling 2014: z ~ N(0, I), then the mean of p(x|z)"}}
        samplers = one_step if self.latent_dim else multi_step
        first = next(iter(samplers))
        steps = samplers[first]["default_steps"]
        measured = self.id == "digits-ddpm"
        data = {
            "name": self.id.split("-")[0],
            "kind": "image" if self.kind == "images" else "tokens",
            "shape": list(self.shape),
            "levels": len(self.letters) or 256,
            "alphabet": self.letters,
            "classes": [],
        }
        return {
            "id": self.id,
            "version": "3",
            "family": self.family,
            "data": data,
            "verbs": ["sample", "impute", "score"] + (["encode", "decode", "reconstruct"] if self.latent_dim else []),
            "samplers": samplers,
            "imputers": {
                "repaint": {**slow, "summary": "Lugmayr et al. 2022, alg. 1", "options": {"times": [1, 20]}},
                "replacement": {
                    **slow,
                    "default_steps": 250,
                    "summary": "Ho et al. 2022, section 3.1: seams, but cheap",
                },
            },
            "default": {"sampler": first, "steps": steps, "nfe": steps},
            "quality": QUALITY if measured else {},
            "metric": "eval/frechet_distance" if measured else None,
            "curve": CURVE if measured else [],
            "latent_dim": self.latent_dim,
            "metrics": METRICS,
            "limits": LIMITS,
            "copies": COPIES if self.id == "tiles-sde" else None,
            "ready": True,
            "trouble": None,
        }


COPIES = "it copies its training data: 0.612 ± 0.011 of its samples are nearer to training than to held-out rows"
METRICS = {
    "eval/bits_per_dim": 2.314,
    "eval/bits_per_dim_nfe": 100.0,
    "eval/bits_per_dim_standard_error": 0.0176,
    "eval/bits_per_dim_prior": 1e-7,
    "eval/frechet_distance": 11.266,
    "eval/frechet_floor": 4.6,
}


def _curve() -> list[dict[str, Any]]:
    """Return plausible points of cost and quality: second-order samplers are better with few steps."""
    floors = {"ddim": (9.0, 1.0), "dpmpp_2m": (12.0, 1.6), "ancestral": (90.0, 1.0)}
    points = []
    for sampler, (scale, order) in floors.items():
        for steps in (5, 10, 20, 50, 100, 250, 1000):
            if (sampler == "ancestral") == (steps >= 50) or sampler == "ddim":
                seconds = 0.0011 * steps * (1.1 if sampler == "dpmpp_2m" else 1)
                quality = 0.35 + scale / steps**order
                point = {"sampler": sampler, "steps": steps, "nfe": steps}
                points.append({**point, "seconds_per_sample": seconds, "quality": quality})
    return points


CURVE = _curve()
QUALITY = {
    "fast": {"sampler": "dpmpp_2m", "steps": 10, "nfe": 10},
    "balanced": {"sampler": "dpmpp_2m", "steps": 20, "nfe": 20},
    "best": {"sampler": "ancestral", "steps": 1000, "nfe": 1000},
}
MODELS = {
    model.id: model
    for model in (
        Model("digits-ddpm", (1, 8, 8), "ddpm"),
        Model("digits-vae", (1, 8, 8), "vae", latent_dim=2),
        Model("digits-vae-24", (1, 8, 8), "vae", latent_dim=24),
        Model("tiles-sde", (3, 32, 32), "score_sde"),
        Model("verse-absorbing", (LENGTH,), "discrete", letters=LETTERS),
        Model("codes-order", (6,), "discrete"),
    )
}


def build(server: FakeServer) -> FastAPI:
    """Return the app of a fake server with the given state."""
    app = FastAPI(openapi_url="/openapi.json", docs_url=None, redoc_url=None)

    @app.exception_handler(FakeServerError)
    async def error_response(request: Request, error: FakeServerError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(server, request)
        cards = [model.card() for model in MODELS.values()]
        return {"data": [*cards, {"id": "asleep", "ready": False, "trouble": "the model does not answer"}]}

    @app.post("/v1/models/{name}/{verb}")
    async def do(name: str, verb: str, request: Request) -> Response:
        body = await request.json()
        check_key(server, request)
        server.requests.append((name, verb, body))
        if server.busy_responses:
            server.busy_responses -= 1
            raise FakeServerError(429, "busy", "too much to do", {"Retry-After": str(server.retry_after)})
        if server.error:
            raise FakeServerError(422, "invalid", server.error)
        model = MODELS[name]
        if body.get("stream"):
            return StreamingResponse(stream_events(server, model, verb, body, request), media_type="text/event-stream")
        await asyncio.sleep(server.delay_seconds)
        if body.get("format") == "npz":
            return Response(b"PK-numbers", media_type="application/octet-stream")
        return JSONResponse(answer(model, verb, body))

    @app.get("/{path:path}")
    async def page(path: str) -> Response:
        file = (PAGE / (path or "index.html")).resolve()
        if not file.is_relative_to(PAGE) or not file.is_file():
            return JSONResponse({"code": "not_found", "message": "no such path", "request_id": "0"}, 404)
        return FileResponse(file, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    return app


def check_key(server: FakeServer, request: Request) -> None:
    if server.key and request.headers.get("authorization") != f"Bearer {server.key}":
        raise FakeServerError(401, "unauthorized", "a key is needed: send Authorization: Bearer KEY")


def compute_samples(model: Model, verb: str, body: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the samples of a request."""
    if verb == "decode":
        return [model.decode(np.array(z)) for z in body["z"]]
    drawn = [model.sample(body.get("seed", 0), row) for row in range(body.get("n", 1))]
    if verb == "sample":
        return drawn
    if model.is_text:
        text = body["text"].ljust(LENGTH, body["hole"])
        return [np.array([LETTERS.index(t) if t != body["hole"] else x[i] for i, t in enumerate(text)]) for x in drawn]
    known, hole = picture(body["image"], model.shape), picture(body["mask"], (1, *model.shape[1:])) > 127
    return [np.where(hole, x, known) for x in drawn]


def answer(model: Model, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer with the structure of the real server's."""
    steps = body.get("steps", 1)
    facts = {
        "model": model.id,
        "version": "3",
        "sampler": body.get("sampler", "ddim"),
        "steps": steps,
        "nfe": steps,
        "seed": body.get("seed", 0),
        "notes": {},
        "seconds": {"queued": 0.0042, "computed": 0.731},
        "request_id": "c0ffee",
    }
    if verb == "score":
        spread = 0.8 if model.is_text else float(picture(body["images"][0], model.shape).std() / 64)
        likelihood = {"bits_per_dim": [1.5 + spread], "standard_error": [0.021], "notes": {"kind": "elbo"}}
        return {**facts, "sampler": None, **likelihood}
    if verb == "encode":
        x = picture(body["images"][0], model.shape)
        mu = np.resize([x.mean() / 50 - 2, x.std() / 50 - 2], model.latent_dim)
        return {**facts, "sampler": None, "mu": [mu.tolist()], "log_var": [[-2.0] * len(mu)]}
    return {**facts, "samples": [model.show(x) for x in compute_samples(model, verb, body)]}


async def stream_events(
    server: FakeServer, model: Model, verb: str, body: Mapping[str, Any], request: Request
) -> AsyncIterator[bytes]:
    """Yield previews, each nearer to the samples, and the answer; bytes are split anywhere, as in networks."""
    steps = body.get("steps", 1)
    total, preview_count = steps * body["n"], min(body["previews"], 8, steps)
    samples = compute_samples(model, verb, body)
    try:
        for i in range(preview_count):
            await asyncio.sleep(server.delay_seconds)
            share = i / preview_count
            shown = [model.preview_of(x, share, body["seed"], row) for row, x in enumerate(samples)]
            preview = {"done": int(share * total), "total": total, model.kind: [model.show(x) for x in shown]}
            for piece in split_in_two(event("preview", preview)):
                yield piece
            if server.stream_error:
                message = {
                    "code": "not_finite",
                    "message": server.stream_error,
                    "request_id": "feed5eed",
                    "status": 500,
                }
                yield event("error", message)
                return
            yield b": still at work\n\n"
        await asyncio.sleep(server.delay_seconds)
        for piece in split_in_two(event("result", answer(model, verb, body))):
            yield piece
    except (asyncio.CancelledError, GeneratorExit):
        server.disconnected_streams += 1
        raise


def event(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def split_in_two(whole: bytes) -> tuple[bytes, bytes]:
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


@cache
def digits() -> np.ndarray:
    """Return the embedded digits (N, 8, 8) in {0 … 255}."""
    return np.minimum(load_digits().images * 16, 255).astype(np.uint8)


@cache
def targets() -> np.ndarray:
    return np.asarray(load_digits().target)


def random_waves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image of two waves in two colours."""
    y, x = np.mgrid[: shape[1], : shape[2]] / shape[1]
    waves = [np.sin(6 * (a * x + b * y) + c) / 2 + 0.5 for a, b, c in rng.uniform(-2, 2, (2, 3))]
    colours = rng.integers(0, 255, (2, 3, 1, 1))
    return np.clip(sum(wave * colour for wave, colour in zip(waves, colours, strict=True)), 0, 255).astype(np.uint8)


def png(x: np.ndarray) -> str:
    """Return an image (C, H, W) as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(x.transpose(1, 2, 0) if len(x) == 3 else x[0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a PNG in base64 as an array (C, H, W); its size must be the given one."""
    image = np.array(
        Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB" if shape[0] == 3 else "L")
    )
    x = image.transpose(2, 0, 1) if shape[0] == 3 else image[None]
    assert x.shape == tuple(shape), x.shape
    return x
