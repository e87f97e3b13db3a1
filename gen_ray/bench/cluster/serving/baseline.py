"""Baseline of the serving benchmark: Ray Serve's request batching; requests for the same chain form one batch."""

import io
from typing import Any

import numpy as np
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.precision import autocast
from gen_ray.maths.noise import RowNoise
from gen_ray.tracking.sources import folder_of

MAX_REQUESTS = 16
WAIT_SECONDS = 0.01


class RequestBatches:
    """A deployment that batches whole requests with ``@serve.batch``: a batch is sampled completely before the next."""

    def __init__(self, id: str, raw: dict[str, Any]) -> None:
        """Load the model in the same way as a replica."""
        app = ServingApplication.model_validate(raw)
        torch.set_num_threads(max(1, int(app.models[id].cpus)))
        self._model = artifact.load(folder_of(app.models[id].model, app.root, app.tracking_uri))
        self._evaluations = 0

    async def counters(self) -> dict[str, float]:
        """Return the number of network evaluations so far."""
        return {"evaluations": self._evaluations}

    async def __call__(self, request: Request) -> Response:
        """Return the response of the API in the format npz."""
        samples = await self._batch(await request.json())
        file = io.BytesIO()
        np.savez(file, samples=samples)
        return Response(file.getvalue(), media_type="application/octet-stream")

    @serve.batch(max_batch_size=MAX_REQUESTS, batch_wait_timeout_s=WAIT_SECONDS)
    async def _batch(self, requests: list[dict[str, Any]]) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.empty(0)] * len(requests)
        kinds: dict[tuple[str, int], list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault((request["sampler"], request["steps"]), []).append(i)
        for (sampler, steps), members in kinds.items():
            results = self._sample(sampler, steps, [requests[i] for i in members])
            for i, samples in zip(members, results, strict=True):
                out[i] = samples
        return out

    @torch.inference_mode()
    def _sample(self, sampler: str, steps: int, requests: list[dict[str, Any]]) -> list[np.ndarray]:
        chain, sizes = self._model.family.chain(sampler, steps), [request["n"] for request in requests]
        noise = RowNoise(
            [request["seed"] for request in requests for _ in range(request["n"])],
            [i for n in sizes for i in range(n)],
            [0] * sum(sizes),
        )
        cpu = torch.device("cpu")
        with autocast(self._model.experiment.training.precision, cpu):
            state = chain.stepper.start(noise, cpu)
            for tick, row in enumerate(chain.table, 1):
                state = chain.stepper.tick(self._model.net, state, row.expand(noise.batch, -1), noise.at(tick))
        self._evaluations += noise.batch * chain.nfe
        return [part.numpy() for part in chain.stepper.finish(state).split(sizes)]


def build(args: ServingApplication) -> serve.Application:
    """Return the baseline of the application's only model; sampling blocks its event loop."""
    [(id, served)] = args.models.items()
    return (
        serve.deployment(RequestBatches)
        .options(name="baseline", max_ongoing_requests=512, ray_actor_options={"num_cpus": served.cpus})
        .bind(id, args.model_dump(mode="json"))
    )
