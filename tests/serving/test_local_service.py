"""The local model service: the answers of each verb, refusals, and changes of version under load."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen_ray.engine.inference import artifact, latent, score
from gen_ray.engine.inference.fingerprint import build, fingerprint
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.sampler_choice import SamplerChoice
from gen_ray.errors import RunError
from gen_ray.maths.chain import Known
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.service import JobResult, RequestLimits, RequestRefusedError, ServingJob, StreamPreview, card_json
from gen_ray.serving.verbs import supported_verbs
from gen_ray.tracking.releases import Release
from gen_ray.tracking.sources import FolderSource
from tests.engine.tiny_models import CPU, images, model


def job(verb: Any = "sample", **fields: Any) -> ServingJob:
    return ServingJob(request_id="r", verb=verb, **fields)


def write_artifact(folder: Path, family: str = "ddpm", seed: int = 0) -> Path:
    artifact.write(folder, model(family, seed))
    return folder


async def open_service(folder: Path, **options: Any) -> LocalModelService:
    service = LocalModelService("toy", FolderSource(folder), device=CPU, **options)
    await service.open()
    return service


def with_service(folder: Path, work: Callable[[LocalModelService], Any], **options: Any) -> Any:
    async def body() -> Any:
        service = await open_service(folder, **options)
        try:
            return await work(service)
        finally:
            await service.close()

    return asyncio.run(body())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("artifacts")
    return {family: write_artifact(home / family, family) for family in ("ddpm", "vae", "tokens")}


def test_a_sample_equals_that_of_generate_and_has_its_settings(folders: dict[str, Path]) -> None:
    async def work(service: LocalModelService) -> tuple[JobResult, JobResult]:
        return await service.run(job(n=3, seed=5)), await service.run(job(n=2, seed=5, sampler="heun", steps=4))

    default, chosen = with_service(folders["ddpm"], work)
    of = artifact.load(folders["ddpm"])
    for answer, chain in ((default, of.experiment.chain(of.family)), (chosen, of.family.chain("heun", 4))):
        n = len(answer.arrays["samples"])
        single = generate(of.net, chain, n, seed=5, device=CPU).numpy()
        assert np.abs(answer.arrays["samples"].astype(int) - single).max() <= 1
        assert answer.nfe == chain.nfe and answer.seed == 5 and answer.version.startswith(folders["ddpm"].name + "@")
        assert answer.queued_seconds >= 0 and answer.computed_seconds > 0
    assert (default.sampler, default.steps) == ("ddim", 20) and (chosen.sampler, chosen.steps) == ("heun", 4)


@pytest.mark.parametrize("family", ["ddpm", "vae", "tokens"])
def test_completions_keep_known_values_and_scores_equal_those_of_the_engine(
    folders: dict[str, Path], family: str
) -> None:
    x = images(2, seed=3)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[..., :2, :] = True

    async def work(service: LocalModelService) -> tuple[JobResult, JobResult]:
        filled = await service.run(job("impute", n=3, seed=1, x=x.numpy(), mask=mask.numpy()))
        return filled, await service.run(job("score", x=x.numpy(), effort=4, seed=2))

    filled, scored = with_service(folders[family], work)
    samples, of = filled.arrays["samples"], artifact.load(folders[family])
    assert samples.shape == (2, 3, 1, 4, 4)
    assert (samples[:, :, :, :2] == x.numpy()[:, None, :, :2]).all()
    known_part = Known(known=x.repeat_interleave(3, 0), mask=mask.repeat_interleave(3, 0))
    chain = of.family.impute(str(filled.sampler), filled.steps if family != "vae" else None)
    single = generate(of.net, chain, 6, seed=1, device=CPU, known=known_part).view(2, 3, 1, 4, 4)
    assert (np.abs(samples.astype(int) - single.numpy()) <= 1).mean() > 0.9
    by_engine = score.score(of, x, effort=4, seed=2, device=CPU)
    np.testing.assert_allclose(scored.arrays["bits_per_dim"], by_engine.bits_per_dim.numpy(), rtol=1e-5)
    assert scored.notes["kind"] == by_engine.kind and scored.nfe == 5 * by_engine.nfe


def test_the_latent_verbs_give_the_results_of_the_engine(folders: dict[str, Path]) -> None:
    x = images(3, seed=3)

    async def work(service: LocalModelService) -> list[JobResult]:
        encoded = await service.run(job("encode", x=x.numpy()))
        decoded = await service.run(job("decode", z=encoded.arrays["mu"]))
        return [encoded, decoded, await service.run(job("reconstruct", x=x.numpy()))]

    encoded, decoded, again = with_service(folders["vae"], work)
    of = artifact.load(folders["vae"])
    posterior = latent.encode(of, x, device=CPU)
    np.testing.assert_allclose(encoded.arrays["mu"], posterior.mu.numpy(), rtol=1e-5, atol=1e-6)
    assert (decoded.arrays["samples"] == latent.decode(of, posterior.mu).numpy()).all()
    assert (again.arrays["samples"] == decoded.arrays["samples"]).all()


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "sampler": ("sample", {"sampler": "euler"}, 422, "there is no sampler 'euler'"),
    "steps": ("sample", {"sampler": "ddim", "steps": 21}, 422, "steps"),
    "least": (
        "impute",
        {"x": images(1).numpy(), "mask": np.zeros((1, 1, 4, 4), bool), "sampler": "repaint_low_noise", "steps": 8},
        422,
        "steps: imputer 'repaint_low_noise' needs at least 11 steps, got 8",
    ),
    "quality": ("sample", {"quality": "best"}, 422, "gen-ray promote"),
    "both": ("sample", {"quality": "best", "steps": 3}, 422, "give either quality, or"),
    "n": ("sample", {"n": 9}, 422, "n: 9 samples in all; the maximum is 8"),
    "work": ("sample", {"n": 8, "steps": 20, "sampler": "ancestral"}, 422, "work: 2,560"),
    "hole": (
        "impute",
        {"x": images(1).numpy(), "mask": np.ones((1, 1, 4, 4), bool), "sampler": "replacement", "steps": 5},
        422,
        "mask: nothing is missing in an instance",
    ),
    "latent": ("encode", {"x": images(1).numpy()}, 422, "has no latent space"),
    "nothing": ("score", {}, 422, "score: needs at least one instance"),
    "late": ("sample", {"deadline_seconds": 0.0}, 504, "deadline_seconds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_job_is_refused_in_one_line(folders: dict[str, Path], name: str) -> None:
    verb, fields, status, words = REFUSED[name]
    heard: list[Any] = []

    async def work(service: LocalModelService) -> None:
        await service.run(job(verb, **fields))

    with pytest.raises(RequestRefusedError) as refused:
        with_service(
            folders["ddpm"],
            work,
            limits=RequestLimits(n=8, work=2000),
            on_finished=lambda outcome, _: heard.append(outcome),
        )
    assert refused.value.refusal.status == status and words in refused.value.refusal.message
    assert "\n" not in refused.value.refusal.message and heard == [refused.value.refusal]


@pytest.mark.parametrize("verb", ["sample", "score"])
def test_out_of_memory_is_a_refusal_and_one_line_in_the_log(
    folders: dict[str, Path], verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = job(verb, x=images(2).numpy()) if verb == "score" else job(verb, n=2)

    async def work(service: LocalModelService) -> None:
        def full(*args: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

        service.current.model.net.forward = full
        with pytest.raises(RequestRefusedError) as refused:
            await service.run(request)
        assert (refused.value.refusal.status, refused.value.refusal.code) == (413, "too_large")

    with_service(folders["ddpm"], work)
    [line] = [record for record in caplog.records if "request r" in record.getMessage()]
    assert "request r: out of memory on cpu: " in line.getMessage() and "\n" not in line.getMessage()
    assert not line.exc_info


def test_a_stream_has_previews_and_ends_with_the_answer(folders: dict[str, Path]) -> None:
    async def work(service: LocalModelService) -> list[StreamPreview | JobResult]:
        return [event async for event in service.stream(job(n=2, seed=1, sampler="ancestral", previews=4))]

    *previews, answer = with_service(folders["ddpm"], work)
    assert isinstance(answer, JobResult) and 3 <= len(previews) <= 4
    for event in previews:
        assert isinstance(event, StreamPreview) and event.samples.shape == answer.arrays["samples"].shape
        assert 0 < event.done < event.total == 40


def test_the_job_of_a_client_that_leaves_is_cancelled(folders: dict[str, Path]) -> None:
    async def work(service: LocalModelService) -> None:
        long = job(n=200, sampler="ancestral", seed=1, previews=3)
        task = asyncio.create_task(service.run(long))
        await asyncio.sleep(0.01)
        task.cancel()
        stream = service.stream(long)
        await anext(stream)
        await stream.aclose()
        admission = service.current.batcher.admission
        for _ in range(200):
            if admission.requests == 0:
                break
            await asyncio.sleep(0.01)
        assert admission.requests == 0 and admission.pending == 0

    with_service(folders["ddpm"], work)


# ---- versions -----------------------------------------------------------------------------------------------------


class FakeSource:
    """A source whose newest version is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.error = folder, Release(version="1"), None

    def newest(self) -> Release:
        if self.error:
            raise RunError(self.error)
        return self.now

    def fetch(self, release: Release) -> Path:
        return self.folder / release.version


def test_versions_change_under_load_without_lost_requests_and_a_bad_version_is_ignored(tmp_path: Path) -> None:
    source = FakeSource(tmp_path)
    for version in ("1", "2", "3"):
        write_artifact(tmp_path / version, seed=int(version))
    damaged = tmp_path / "3" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    answers: list[JobResult] = []

    async def client(service: LocalModelService, number: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            answers.append(await service.run(job(n=2, seed=number, sampler="ancestral")))

    async def work() -> list[str | None]:
        service, stop = LocalModelService("toy", source, device=CPU), asyncio.Event()
        await service.open()
        clients = [asyncio.create_task(client(service, number, stop)) for number in range(4)]
        troubles = [(await service.card()).trouble]
        for change in ("2", "3", "2"):
            await asyncio.sleep(0.1)
            source.now = replace(source.now, version=change)
            await service.renew()
            troubles.append((await service.card()).trouble)
        source.error = "the store does not answer"
        await service.renew()
        troubles.append((await service.card()).trouble)
        assert (await service.card()).version == "2"
        stop.set()
        await asyncio.gather(*clients)
        await service.close()
        return troubles

    first, second, third, fourth, fifth = asyncio.run(work())
    assert first is None and second is None and fourth is None
    assert third is not None and "version 3 is not served" in third and "weights.safetensors" in third
    assert fifth is not None and "cannot check for newer versions: the store does not answer" in fifth
    assert {answer.version for answer in answers} == {"1", "2"}
    by_version = {(a.version, a.seed): a.arrays["samples"].astype(int) for a in answers}
    for answer in answers:  # each answer comes from exactly the version that it names
        one = by_version[answer.version, answer.seed]
        assert np.abs(answer.arrays["samples"].astype(int) - one).max() <= 1
    assert (by_version["1", 0] != by_version["2", 0]).any()


UNSENDABLE: dict[str, dict[str, Any]] = {
    "an unknown sampler": {"quality": {"balanced": SamplerChoice("euler", 3)}},
    "an unknown sampler of another choice": {"quality": {"fast": SamplerChoice("nothing:eta=x", 3)}},
    "no steps": {"quality": {"best": SamplerChoice("ddim", 0)}},
    "too many steps": {"quality": {"best": SamplerChoice("ddim", 10**12)}},
    "steps as a text": {"quality": {"best": SamplerChoice("ddim", "x")}},
    "a metric that JSON does not know": {"metric": {1, 2}},
}


@pytest.mark.parametrize("name", UNSENDABLE)
def test_a_version_whose_card_cannot_be_sent_does_not_take_over(tmp_path: Path, name: str) -> None:
    source = FakeSource(tmp_path)
    for version in ("1", "2"):
        write_artifact(tmp_path / version, seed=int(version))

    async def work() -> str | None:
        service = LocalModelService("toy", source, device=CPU)
        await service.open()
        source.now = Release(version="2", **UNSENDABLE[name])
        await service.renew()
        card = await service.card()
        assert card.version == "1" and (await service.run(job(n=1))).version == "1"
        await service.close()
        return card.trouble

    trouble = asyncio.run(work())
    assert trouble is not None and "version 2 is not served: version 2: " in trouble


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("quality", "{"), ("quality", "[]"), ("quality", '{"fast": {"sampler": "ddim"}}'), ("quality", "[" * 100_000),
        ("quality", '{"other": {"sampler": "ddim", "steps": 3}}'), ("quality", '{"fast": {"sampler": 1, "steps": 1}}'),
        ("curve", "{}"), ("curve", '[["ddim", 3]]'), ("curve", '[["ddim", "x", 3, 1, 1, 1]]'), ("curve", "null"),
    ],
)  # fmt: skip
def test_a_tag_that_cannot_be_read_is_named(tag: str, value: str) -> None:
    with pytest.raises(RunError, match=rf"version 7: its tag gen_ray\.sampling\.{tag} cannot be read"):
        Release.read("7", "0" * 32, {f"gen_ray.sampling.{tag}": value})


def test_a_figure_that_is_not_finite_is_null_in_the_card(tmp_path: Path) -> None:
    of = model("ddpm")
    of.meta["metrics"] = {"eval/standard_error": float("nan"), "eval/bits_per_dim": 1.5}
    artifact.write(tmp_path / "nan", of)

    async def work(service: LocalModelService) -> dict[str, Any]:
        return card_json(await service.card())

    sent = with_service(tmp_path / "nan", work)
    assert sent["metrics"] == {"eval/standard_error": None, "eval/bits_per_dim": 1.5}


def test_a_version_whose_samples_differ_from_its_promotion_is_not_served(folders: dict[str, Path]) -> None:
    of, choice = artifact.load(folders["ddpm"]), SamplerChoice("ddim", 3)
    right = Release(
        version="4", quality={"fast": choice}, fingerprint=fingerprint(of, choice, CPU), build=build(of, CPU)
    )

    class Promoted(FolderSource):
        release = right

        def newest(self) -> Release:
            return self.release

    async def work(release: Release) -> None:
        source = Promoted(folders["ddpm"])
        source.__class__.release = release
        service = LocalModelService("toy", source, device=CPU)
        await service.open()
        await service.close()

    asyncio.run(work(right))
    wrong = replace(right, fingerprint="0" * 64)
    with pytest.raises(RunError, match="fixed samples have SHA-256"):
        asyncio.run(work(wrong))
    asyncio.run(work(replace(wrong, build="another machine")))  # the samples of another machine may differ


def test_quality_selects_the_measured_sampler(folders: dict[str, Path]) -> None:
    class Promoted(FolderSource):
        def newest(self) -> Release:
            choices = {
                "fast": SamplerChoice("ddim", 3),
                "balanced": SamplerChoice("ddim", 7),
                "best": SamplerChoice("ancestral", 20),
            }
            return Release(version="4", quality=choices, metric="eval/frechet_distance", copies="it copies its data")

    async def work() -> list[JobResult]:
        service = LocalModelService("toy", Promoted(folders["ddpm"]), device=CPU)
        await service.open()
        qualities: list[Any] = [None, "fast", "best"]
        answers = [await service.run(job(quality=quality)) for quality in qualities]
        card = await service.card()
        assert card.default == {"sampler": "ddim", "steps": 7, "nfe": 7} and card.quality["best"]["nfe"] == 20
        assert card_json(card)["copies"] == "it copies its data"
        await service.close()
        return answers

    assert [(a.sampler, a.steps, a.nfe) for a in asyncio.run(work())] == [
        ("ddim", 7, 7),
        ("ddim", 3, 3),
        ("ancestral", 20, 20),
    ]


def test_other_weights_of_a_served_run_are_another_version(tmp_path: Path) -> None:
    """After gen-ray ema replaces the artifact of a run, samples and version change together."""
    folder = write_artifact(tmp_path / "run-1" / "artifact", seed=0)

    async def work(service: LocalModelService) -> list[Any]:
        answers = [await service.run(job(n=2, seed=3))]
        write_artifact(folder, seed=1)
        answers.append(await service.run(job(n=2, seed=3)))
        await service.renew()
        answers.append(await service.run(job(n=2, seed=3)))
        return answers

    first, before, after = with_service(folder, work)
    assert first.version == before.version and np.array_equal(first.arrays["samples"], before.arrays["samples"])
    assert after.version != first.version and after.version.startswith("run-1@")
    assert not np.array_equal(first.arrays["samples"], after.arrays["samples"])


def test_an_artifact_replaced_between_its_choice_and_its_loading_is_not_served(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "run-1" / "artifact", seed=0)
    release = FolderSource(folder).newest()
    write_artifact(folder, seed=1)
    with pytest.raises(RunError, match="was replaced while it was loaded"):
        LoadedModel.open("toy", release, folder, CPU, RequestLimits(), supported_verbs)
