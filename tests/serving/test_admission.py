"""Request slots of the ingress: one key, or clients that send nothing, cannot use the slots of others."""

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_ray.serving.api import build
from gen_ray.serving.middleware import Slots
from gen_ray.serving.settings import ApiKey, ApiSettings
from tests.serving.services import FakeService

KEYS = {name: f"the-key-of-{name}-of-this-test" for name in ("anna", "bert", "carl")}
SETTINGS = ApiSettings(
    keys=tuple(ApiKey.of(name, secret) for name, secret in KEYS.items()), requests_at_once=24, open_body_seconds=0.2
)


class Exchange:
    """One request whose body may never be sent; records the status of the answer and its duration."""

    def __init__(self, app: Any, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> None:
        self.app, self.body, self.status, self.seconds = app, body, 0, 0.0
        listed = [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers.items())]
        self.scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": listed}

    async def receive(self) -> dict[str, object]:
        if self.body is None:
            await asyncio.sleep(60)
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)

    async def run(self) -> "Exchange":
        started = time.monotonic()
        await self.app(self.scope, self.receive, self.send)
        self.seconds = time.monotonic() - started
        return self


def get(app: Any, path: str) -> Exchange:
    return Exchange(app, "GET", path, {}, b"")


def sample(app: Any, name: str) -> Exchange:
    headers = {"authorization": f"Bearer {KEYS[name]}", "content-type": "application/json"}
    return Exchange(app, "POST", "/v1/models/digits/sample", headers, json.dumps({"n": 1}).encode())


def run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


@pytest.mark.parametrize("announced", [{"content-length": "5"}, {"transfer-encoding": "chunked"}])
@pytest.mark.parametrize("path", ["/healthz/live", "/", "/style.css", "/v1/models"])
@pytest.mark.parametrize("keys", [True, False])
def test_an_announced_body_is_refused_at_once_where_none_is_expected(
    services: dict[str, FakeService], announced: dict[str, str], path: str, keys: bool
) -> None:
    app = build(services, SETTINGS if keys else ApiSettings())

    async def scene() -> None:
        found = await asyncio.gather(*(Exchange(app, "GET", path, announced).run() for _ in range(60)))
        assert {one.status for one in found} <= {400, 401}
        assert (await get(app, "/healthz/live").run()).status == 200

    run(scene())


def test_without_a_key_the_wait_for_a_body_is_short_and_health_is_answered(services: dict[str, FakeService]) -> None:
    app = build(services, SETTINGS.model_copy(update={"keys": ()}))

    async def scene() -> None:
        headers = {"content-length": "5", "content-type": "application/json"}
        waiting = [Exchange(app, "POST", "/v1/models/digits/sample", headers) for _ in range(100)]
        running = [asyncio.create_task(one.run()) for one in waiting]
        await asyncio.sleep(0.05)
        for path in ("/healthz/live", "/healthz/ready"):
            assert (await get(app, path).run()).status == 200
        await asyncio.gather(*running)
        assert {one.status for one in waiting} == {408, 429}
        assert (await get(app, "/v1/models").run()).status == 200

    run(scene())
    assert ApiSettings().open_body_seconds == 3


def test_a_greedy_key_leaves_other_keys_their_slots(services: dict[str, FakeService]) -> None:
    """24 slots: 3 reserved for each of three keys and for requests without key, 12 shared, over all models."""
    app = build(services, SETTINGS)
    services["digits"].step_seconds = 0.05

    async def scene() -> None:
        greedy = [sample(app, "anna") for _ in range(200)]
        running = [asyncio.create_task(one.run()) for one in greedy]
        await asyncio.sleep(0.1)
        others = [sample(app, name) for name in ("bert", "carl") for _ in range(3)]
        await asyncio.gather(*(one.run() for one in others))
        assert (await get(app, "/healthz/ready").run()).status == 200
        await asyncio.gather(*running)
        assert [one.status for one in others] == [200] * 6
        assert sum(one.status == 200 for one in greedy) == 15 and {one.status for one in greedy} == {200, 429}
        assert (await sample(app, "anna").run()).status == 200
        assert {job.key for job in services["digits"].jobs} == set(KEYS)

    run(scene())


@given(st.integers(1, 40), st.integers(1, 5), st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200))
def test_slots_are_released_and_each_key_always_has_its_share(
    number: int, keys: int, steps: list[tuple[int, bool]]
) -> None:
    names = [str(key) for key in range(keys)]
    slots, in_use = Slots(number, names), dict.fromkeys(names, 0)
    for key, takes in steps:
        name = names[key % keys]
        if takes:
            taken = slots.take(name)
            assert taken or in_use[name] >= slots.reserved
            in_use[name] += taken
        elif in_use[name]:
            slots.release(name)
            in_use[name] -= 1
        assert sum(in_use.values()) <= max(number, keys)
    for name, count in in_use.items():
        for _ in range(count):
            slots.release(name)
    assert slots._common == 0 and not any(slots._in_use.values())
