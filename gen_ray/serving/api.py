"""The app: models behind /v1, health, and the page. It knows desks and nothing of who is behind them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response

from gen_ray.serving import documents, page, refusals
from gen_ray.serving.access import FAULTS, Access
from gen_ray.serving.cards import shown, silent
from gen_ray.serving.counter import Counter, Desks
from gen_ray.serving.json_body import JsonRoute
from gen_ray.serving.protection import HEALTH, Bodies, Hosts, Keys
from gen_ray.serving.refusals import standing
from gen_ray.serving.requests import Decode, Encode, Impute, Reconstruct, Sample, Score
from gen_ray.serving.settings import Settings

SAMPLES = documents.answering(
    documents.Samples, others=("application/octet-stream", "image/png", "text/plain"), stream=False
)
STREAMED = documents.answering(
    documents.Samples, others=("application/octet-stream", "image/png", "text/plain"), stream=True
)
SCORES = documents.answering(documents.Scores, others=("application/octet-stream",))
LATENTS = documents.answering(documents.Latents, others=("application/octet-stream",))
