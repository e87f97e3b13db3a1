"""The examples of gen_ray/README.md: each adds a component in the stated files, and the rest of the program uses it."""

import importlib
import re
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field, create_model
from starlette.testclient import TestClient

import gen_ray.families.ddpm.model as ddpm_model
import gen_ray.families.score_sde.samplers as sde_samplers
from gen_ray import families
from gen_ray.configuration.base import Config, named
from gen_ray.datasets.prepare import prepare
from gen_ray.engine.evaluation import feature_metrics
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.generate import generate
from gen_ray.experiment import parse
from gen_ray.families.ddpm import Ddpm, DdpmConfig
from gen_ray.maths.chain import Known
from gen_ray.maths.schedules import Learnable
from gen_ray.maths.tables import Column
from gen_ray.nets import DenoiserConfig
from gen_ray.serving.api import build
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import VERBS
from gen_ray.tracking import comparison
from gen_ray.tracking.sources import FolderSource
from tests.conftest import ROOT
from tests.engine.tiny_models import CPU, MLP, SPEC, images, model
from tests.families import cases, test_contract
from tests.test_comparison import run

PAGE = (ROOT / "gen_ray/README.md").read_text()
EXAMPLES: Mapping[str, str] = {
    program.splitlines()[0].removeprefix("# "): program
    for program in re.findall(r"^```python\n(# (?:gen_ray|tests)/.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
}


def applied(file: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Execute an example as if it were appended to its file, or were a new file, until the end of the test.

    Return its module.
    """
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if (ROOT / file).exists():
        module = importlib.import_module(name)
    else:
        package, _, leaf = name.rpartition(".")
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(importlib.import_module(package), leaf, module, raising=False)
    space = dict(vars(module))
    exec(compile(EXAMPLES[file], file, "exec"), space)
    for key, value in space.items():
        if value is not vars(module).get(key):
            monkeypatch.setattr(module, key, value, raising=False)
    return module


def checked(config: DdpmConfig) -> None:
    """Train one step and draw samples with the settings of a DDPM."""
    family = Ddpm(config, SPEC)
    net, rng = family.build_net(), torch.Generator().manual_seed(0)
    assert family.loss(net, images(4), rng, step=0).total.isfinite().all()
    assert generate(net, family.chain("ddim", 5), 2, seed=0, device=CPU).shape == (2, 1, 4, 4)


def extended(key: str, union: Any, added: type[Config], **settings: Any) -> DdpmConfig:
    """Return the settings of a DDPM where one key also takes a new value."""
    kind = Annotated[union | added, Field(discriminator="name")]
    name = added.model_fields["name"].default
    config = create_model("Extended", __base__=DdpmConfig, **{key: (Annotated[kind, named(name)], name)})
    return config.model_validate({"steps": 20, key: name, **settings})


def test_every_example_is_tested() -> None:
    tested = re.findall(r'(?:applied\(|EXAMPLES\[)"((?:gen_ray|tests)/[\w/.]+)"', Path(__file__).read_text())
    assert sorted(set(tested)) == sorted(EXAMPLES)


def test_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "histogram.py").write_text(EXAMPLES["gen_ray/families/histogram.py"])
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    family = parse({"name": "toy", "family": {"name": "histogram"}}).model(SPEC)
    net, rng, x = family.build_net(), torch.Generator().manual_seed(0), images(5)
    uniform = SPEC.dims * torch.tensor(17.0).log()
    torch.testing.assert_close(family.nll(net, x, rng, effort=1).nats, uniform.expand(5))
    family.loss(net, x, rng, step=0).total.sum().backward()
    samples = generate(net, family.chain("draw"), 200, seed=0, device=CPU)
    assert samples.unique().tolist() == list(range(17))
    known = Known(known=x[:3], mask=x[:3] > 8)
    completed = generate(net, family.impute("draw"), 3, seed=0, device=CPU, known=known)
    assert torch.equal(completed[known.mask], x[:3][known.mask].to(completed))
    assert (completed != samples[:3])[known.mask].any() and torch.equal(
        completed[~known.mask], samples[:3][~known.mask]
    )


def test_a_family_passes_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "histogram.py").write_text(EXAMPLES["gen_ray/families/histogram.py"])
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setitem(cases.CONFIGS, "histogram", {})  # filled by the example, and removed after the test
    monkeypatch.setitem(cases.PROMISES, "histogram", cases.PROMISES["vae"])
    applied("tests/families/cases.py", monkeypatch)
    ours = [cases.Case("histogram", name) for name in cases.CONFIGS["histogram"]]
    monkeypatch.setattr(test_contract, "CASES", [*cases.CASES, *ours])
    calls = 0
    for law in [law for name, law in vars(test_contract).items() if name.startswith("test_")]:
        values = {mark.args[0]: mark.args[1] for mark in getattr(law, "pytestmark", [])}
        values |= {key: found for key, found in (("case", ours), ("name", ["histogram"])) if key in values}
        if {"case", "name"} & set(values):
            for chosen in product(*values.values()):
                law(**dict(zip(values, chosen, strict=True)))
                calls += 1
    assert calls > 40


def test_the_shown_table_is_that_of_the_sampler() -> None:
    family = parse({"name": "toy", "family": {"name": "ddpm", "schedule": "cosine", "net": MLP}}).model(SPEC)
    shown = re.search(r"^\| t \| alpha .*\n\| ---.*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    assert shown is not None
    rows = [[float(cell) for cell in line.split("|")[1:-1]] for line in shown[1].splitlines()]
    columns = [Column[name.strip()] for name in shown[0].splitlines()[0].split("|")[1:-1]]
    table = family.chain("ddim", 3).table
    torch.testing.assert_close(torch.tensor(rows).double(), table[:, columns], rtol=2e-3, atol=0)
    assert not table[:, [column for column in Column if column not in columns]].any()


def test_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    applied("gen_ray/maths/tables/samplers.py", monkeypatch)
    assert "midpoint" in applied("gen_ray/maths/tables/__init__.py", monkeypatch).__all__
    declared = applied("gen_ray/maths/gaussian_samplers.py", monkeypatch).GAUSSIAN_SAMPLERS
    for module in (ddpm_model, sde_samplers):
        monkeypatch.setattr(module, "GAUSSIAN_SAMPLERS", declared)
    for settings in ({"name": "ddpm", "steps": 20, "net": MLP}, {"name": "score_sde", "net": MLP}):
        family = parse({"name": "toy", "family": settings}).model(SPEC)
        assert "midpoint" in family.samplers()
        torch.testing.assert_close(family.chain("midpoint", 7).table, family.chain("ddim:eta=0.5", 7).table)
        assert generate(family.build_net(), family.chain("midpoint", 3), 2, seed=0, device=CPU).shape == (2, 1, 4, 4)


def test_a_noise_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    power = applied("gen_ray/maths/schedules.py", monkeypatch).Power
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    alpha_bar = power().alpha_bar(4)
    torch.testing.assert_close(alpha_bar[1:4].logit(), power().log_snr(t))
    checked(extended("schedule", Learnable, power, net=MLP))


def test_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(extended("net", DenoiserConfig, applied("gen_ray/nets/linear.py", monkeypatch).LinearConfig))


def test_a_data_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    applied("gen_ray/datasets/stripes.py", monkeypatch)
    applied("gen_ray/datasets/catalogue.py", monkeypatch)
    prepared = prepare("stripes", out=tmp_path)
    assert prepared.spec.name == "stripes" and sum(prepared.rows.values()) == 128


def test_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "METRICS", applied("gen_ray/metrics.py", monkeypatch).METRICS)
    applied("gen_ray/engine/evaluation/feature_metrics.py", monkeypatch)
    rows = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    features = feature_metrics.FeatureSets(samples=2 * rows, reference=rows, held_out=rows, neighbours=3)
    assert feature_metrics.measured(features)["eval/feature_spread"] == pytest.approx(4)
    one, other = run("a"), run("b")
    one.metrics["eval/feature_spread"], other.metrics["eval/feature_spread"] = 1.25, 2.25  # type: ignore[index]
    [table] = comparison.tables([one, other], "eval/feature_spread")
    assert [line[0] for line in table.lines] == ["b", "a"] and "spread" in table.header


@pytest.mark.slow
def test_an_http_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "brightness", VERBS["score"])  # is replaced by the example, and removed after the test
    applied("gen_ray/serving/schemas.py", monkeypatch)
    applied("gen_ray/serving/result_schemas.py", monkeypatch)
    applied("gen_ray/serving/jobs.py", monkeypatch)
    applied("gen_ray/serving/verbs.py", monkeypatch)
    artifact.write(tmp_path / "toy", model("ddpm"))
    service = LocalModelService("toy", FolderSource(tmp_path / "toy"), device=CPU)
    with TestClient(build({"toy": service}, ApiSettings()), base_url="http://localhost:8000") as http:
        assert http.portal is not None
        http.portal.call(service.open)
        body = {"x": [[[1] * 4] * 4]}
        assert http.post("/v1/models/toy/brightness", json=body).json()["brightness"] == [1.0]
        http.portal.call(service.close)
