"""Cases of the contract suite. A new family adds its cases here; the suite does not change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.experiment import Experiment, parse
from gen_ray.family import Family
from tests.families.rows import boolean, category, number, random_rows, table

SMALL = DataSpec(name="small", kind="image", shape=(1, 4, 4), levels=17)
COLOUR = DataSpec(name="colour", kind="image", shape=(3, 5, 6), levels=256)
FINE = DataSpec(name="fine", kind="image", shape=(1, 4, 4), levels=1000)
TEXT = DataSpec(name="text", kind="tokens", shape=(6,), levels=5)
COLUMNS = (category("colour", 3), number("size", 9), boolean("old"), category("kind", 6), number("few", 2))
ROWS = table(*COLUMNS)
INCOMPLETE = table(*COLUMNS, category("constant", 1), name="incomplete")
MISSING = {"incomplete": 0.3}
"""The share of missing values of a table in the tests, by its name."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodContract:
    """Expected kind, nfe (None: not fixed) and draws of a family's likelihood at an effort, and the data it refuses.

    exact: whether loss and likelihood of these settings are computed without random draws.
    """

    kind: Callable[[Mapping[str, Any], int], str]
    nfe: Callable[[Mapping[str, Any], int], int | None]
    refuses: DataSpec
    unknown_option: str
    too_many_steps: int
    exact: Callable[[Mapping[str, Any]], bool] = lambda settings: False


def _vae(spec: DataSpec = SMALL, **settings: Any) -> tuple[DataSpec, dict[str, Any]]:
    return spec, {"latent_dim": 3, "net": {"name": "mlp", "hidden": [16]}, **settings}


def _ddpm(spec: DataSpec = SMALL, **settings: Any) -> tuple[DataSpec, dict[str, Any]]:
    return spec, {"schedule": "cosine", "steps": 12, "net": {"name": "mlp", "width": 16, "depth": 1}, **settings}


def _score_sde(spec: DataSpec = SMALL, **settings: Any) -> tuple[DataSpec, dict[str, Any]]:
    few = {"steps": 4, "solver": {"name": "rk4", "steps": 3}, "net": {"name": "mlp", "width": 16, "depth": 1}}
    return spec, {**few, **settings}


CONV = {"name": "conv", "width": 8, "hidden": 16}
UNET = {"name": "unet", "width": 16, "multipliers": [1], "patch": 2}
DIT = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 2}

DISCRETE = {"name": "learned", "estimate": "discrete", "learn_ends": False, "gamma_min": -8.0}

LEVELS = {"name": "unet", "width": 16, "multipliers": [1], "embedding": 4}
COLUMNS_NET = {"name": "columns", "width": 16, "depth": 1, "dropout": 0.1}
COLUMNS_TRANSFORMER = {"name": "columns_transformer", "width": 16, "depth": 1, "heads": 2}
LOGIC = {"name": "tokens", "width": 16, "depth": 1, "heads": 2}


def _discrete(spec: DataSpec = SMALL, net: Mapping[str, Any] = LOGIC, **kernel: Any) -> tuple[DataSpec, dict[str, Any]]:
    return spec, {"kernel": kernel, "net": dict(net)}


CONFIGS: dict[str, dict[str, tuple[DataSpec, dict[str, Any]]]] = {
    "vae": {
        "logistic": _vae(),
        "logistic-conv": _vae(COLOUR, likelihood="logistic", net=CONV),
        "logistic-warmup": _vae(kl_warmup_steps=10),
        "logistic-fine": _vae(FINE),
        "categorical": _vae(COLOUR.model_copy(update={"levels": 5}), likelihood="categorical"),
        "categorical-conv": _vae(likelihood="categorical", net=CONV),
        "static": _vae(likelihood="bernoulli", binarise="static"),
        "static-conv": _vae(COLOUR, likelihood="bernoulli", binarise="static", net=CONV),
        "dynamic": _vae(likelihood="bernoulli", binarise="dynamic"),
        "logistic-rows": _vae(ROWS, likelihood="logistic"),
        "logistic-incomplete": _vae(INCOMPLETE, likelihood="logistic"),
        "categorical-rows": _vae(ROWS),
        "categorical-incomplete": _vae(INCOMPLETE, likelihood="categorical", kl_warmup_steps=3),
        "dynamic-conv": _vae(likelihood="bernoulli", binarise="dynamic", net=CONV, kl_warmup_steps=3),
    },
    "ddpm": {
        "eps-small-simple-cosine-unet": _ddpm(net=UNET),
        "eps-large-simple-linear-mlp": _ddpm(schedule="linear", steps=25, variance="large"),
        "eps-learned-simple-cosine-dit": _ddpm(variance="learned", net=DIT),
        "eps-learned-vlb-sigmoid-unet": _ddpm(COLOUR, schedule="sigmoid", variance="learned", loss="vlb", net=UNET),
        "eps-small-vlb-linear-mlp": _ddpm(schedule="linear", steps=25, loss="vlb"),
        "x_0-large-vlb-sigmoid-dit": _ddpm(schedule="sigmoid", predict="x_0", variance="large", loss="vlb", net=DIT),
        "x_0-small-simple-linear-unet": _ddpm(COLOUR, schedule="linear", steps=25, predict="x_0", net=UNET),
        "x_0-learned-vlb-cosine-mlp": _ddpm(predict="x_0", variance="learned", loss="vlb"),
        "v-small-vlb-cosine-unet": _ddpm(FINE, predict="v", loss="vlb", net=UNET),
        "v-large-simple-sigmoid-mlp": _ddpm(COLOUR, schedule="sigmoid", predict="v", variance="large"),
        "v-learned-hybrid-linear-dit": _ddpm(
            schedule="linear", steps=25, predict="v", variance="learned", vlb_weight=0.1, net=DIT
        ),
        "v-learned-min-snr-unet": _ddpm(predict="v", variance="learned", min_snr=5.0, net=UNET),
        "v-free-two-steps": _ddpm(predict="v", clip=False, steps=2),
        "eps-small-vlb-learned-unet": _ddpm(schedule="learned", loss="vlb", net=UNET),
        "v-small-vlb-learned-discrete-mlp": _ddpm(COLOUR, schedule=DISCRETE, predict="v", loss="vlb"),
        "v-small-simple-rows": _ddpm(ROWS, predict="v"),
        "x_0-learned-simple-incomplete": _ddpm(INCOMPLETE, predict="x_0", variance="learned", min_snr=5.0),
        "eps-large-vlb-incomplete": _ddpm(INCOMPLETE, schedule="linear", steps=25, variance="large", loss="vlb"),
        "v-small-vlb-learned-incomplete": _ddpm(INCOMPLETE, schedule="learned", predict="v", loss="vlb"),
        "v-small-vlb-learned-discrete-incomplete": _ddpm(INCOMPLETE, schedule=DISCRETE, predict="v", loss="vlb"),
    },
    "discrete": {
        "absorbing-unet": _discrete(net=LEVELS, name="absorbing", steps=12),
        "absorbing-cosine-colour": _discrete(COLOUR, name="absorbing", schedule="cosine", steps=12),
        "absorbing-linear-text": _discrete(TEXT, name="absorbing", schedule="linear", steps=12),
        "absorbing-vb-unet": _discrete(net=LEVELS, name="absorbing", loss="vb", steps=12),
        "absorbing-hybrid-text": _discrete(TEXT, name="absorbing", loss="hybrid", steps=12),
        "uniform-hybrid-text": _discrete(TEXT, name="uniform", ce_weight=0.01, steps=12),
        "uniform-hybrid-linear-unet": _discrete(COLOUR, LEVELS, name="uniform", schedule="linear", steps=12),
        "uniform-vb-information": _discrete(name="uniform", loss="vb", schedule="mutual_information", steps=12),
        "uniform-vb-reciprocal-fine": _discrete(FINE, name="uniform", loss="vb", schedule="reciprocal", steps=12),
        "random-order-text": _discrete(TEXT, name="random_order"),
        "random-order-unet": _discrete(net=LEVELS, name="random_order"),
        "order-text": _discrete(TEXT, name="order"),
        "order-colour": _discrete(COLOUR, name="order"),
        "random-order-rows": _discrete(ROWS, COLUMNS_NET, name="random_order"),
        "random-order-incomplete": _discrete(INCOMPLETE, COLUMNS_NET, name="random_order"),
        "absorbing-rows": _discrete(ROWS, COLUMNS_TRANSFORMER, name="absorbing", steps=12),
        "absorbing-vb-incomplete": _discrete(INCOMPLETE, COLUMNS_NET, name="absorbing", loss="vb", steps=12),
        "uniform-rows": _discrete(ROWS, COLUMNS_NET, name="uniform", steps=12),
        "uniform-incomplete": _discrete(INCOMPLETE, COLUMNS_TRANSFORMER, name="uniform", loss="vb", steps=12),
        "order-rows": _discrete(ROWS, COLUMNS_TRANSFORMER, name="order"),
        "order-incomplete": _discrete(INCOMPLETE, COLUMNS_TRANSFORMER, name="order"),
    },
    "score_sde": {
        "vp-eps-mlp": _score_sde(sde="vp"),
        "vp-v-likelihood-mlp": _score_sde(sde="vp", predict="v", weighting="likelihood"),
        "vp-exact-trace-mlp": _score_sde(sde="vp", trace="exact"),
        "ve-likelihood-colour-unet": _score_sde(COLOUR, sde="ve", weighting="likelihood", net=UNET),
        "ve-v-levels-mlp": _score_sde(FINE, sde={"name": "ve", "sigma_max": 20.0}, predict="v", dequantise=False),
        "vp-dopri5-mlp": _score_sde(sde="vp", solver={"name": "dopri5", "rtol": 1e-6, "atol": 1e-6}),
        "subvp-dit": _score_sde(sde="subvp", net=DIT),
        "vp-v-rows": _score_sde(ROWS, sde="vp", predict="v"),
        "vp-exact-trace-incomplete": _score_sde(INCOMPLETE, sde="vp", trace="exact"),
        "ve-likelihood-incomplete": _score_sde(INCOMPLETE, sde="ve", weighting="likelihood", dequantise=False),
        "subvp-likelihood-free-mlp": _score_sde(COLOUR, sde="subvp", weighting="likelihood", clip=False),
    },
}


def _vae_kind(settings: Mapping[str, Any], effort: int) -> str:
    suffix = "-binary" if settings.get("likelihood") == "bernoulli" else ""
    return ("elbo" if effort == 1 else f"iwae-{effort}") + suffix


def _ddpm_nfe(settings: Mapping[str, Any], effort: int) -> int:
    """Return the nfe; a learned process has a decoder without a net, otherwise the decoder is one evaluation."""
    decoder = 0 if "learned" in str(settings["schedule"]) else 1
    return decoder + max(1, min(effort - decoder, settings["steps"] - 1))


def _discrete_kind(settings: Mapping[str, Any], effort: int) -> str:
    if settings["kernel"]["name"] == "order":
        return "ar"
    gridded = settings["kernel"]["name"] == "uniform" or settings["kernel"].get("loss") in ("vb", "hybrid")
    return "vlb" if gridded else "elbo-ct"


def _discrete_nfe(settings: Mapping[str, Any], effort: int) -> int:
    """Return the nfe: at most the number of steps or of masked positions; one for a causal net."""
    kernel = settings["kernel"]
    return min(effort, {"order": 1, "uniform": kernel.get("steps", 0)}.get(kernel["name"], settings["dims"]))


def _score_sde_draws(settings: Mapping[str, Any], effort: int) -> int:
    return max(1, effort // (4 * settings["solver"]["steps"]))


def _score_sde_nfe(settings: Mapping[str, Any], effort: int) -> int | None:
    """Return the nfe; None for an adaptive solver, whose number of steps is not fixed."""
    if "steps" not in settings["solver"]:
        return None
    return 4 * settings["solver"]["steps"] * _score_sde_draws(settings, effort)


def _score_sde_kind(settings: Mapping[str, Any], effort: int) -> str:
    if settings.get("trace") != "exact":
        return "pf-ode"
    draws = _score_sde_draws(settings, effort)
    return f"pf-ode-iw-{draws}" if draws > 1 else "pf-ode"


PROMISES = {
    "vae": LikelihoodContract(
        kind=_vae_kind,
        nfe=lambda settings, effort: effort,
        refuses=TEXT,
        unknown_option="mean:temperature=1",
        too_many_steps=2,
    ),
    "ddpm": LikelihoodContract(
        kind=lambda settings, effort: "vlb",
        nfe=_ddpm_nfe,
        refuses=TEXT,
        unknown_option="ancestral:eta=1",
        too_many_steps=1000,
    ),
    "discrete": LikelihoodContract(
        kind=_discrete_kind,
        nfe=_discrete_nfe,
        refuses=TEXT,
        unknown_option="first_hitting:temperature=1",
        too_many_steps=17,
        exact=lambda settings: settings["kernel"]["name"] == "order",
    ),
    "score_sde": LikelihoodContract(
        kind=_score_sde_kind,
        nfe=_score_sde_nfe,
        refuses=TEXT,
        unknown_option="dpmpp_2m:eta=1",
        too_many_steps=100_001,
    ),
}


@dataclass(frozen=True)
class Case:
    """One configuration of a family and the data that it models."""

    family: str
    name: str

    @property
    def spec(self) -> DataSpec:
        return CONFIGS[self.family][self.name][0]

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.family, **CONFIGS[self.family][self.name][1]}

    @property
    def promise(self) -> LikelihoodContract:
        return PROMISES[self.family]

    @property
    def exact(self) -> bool:
        """Return whether loss and likelihood are exact, that is, computed without random draws."""
        return self.promise.exact(self.settings)

    def experiment(self) -> Experiment:
        return parse({"name": "case", "family": self.settings})

    def model(self) -> Family:
        return self.experiment().model(self.spec)

    @property
    def missing(self) -> float:
        """Return the share of missing values of the data."""
        return MISSING.get(self.spec.name, 0.0)

    def x(self, n: int, seed: int = 0) -> Tensor:
        """Return n stored examples (n, *shape), including the extreme levels."""
        rng = torch.Generator().manual_seed(seed)
        if self.spec.is_table:
            return random_rows(self.spec, n, rng, missing=self.missing)
        x = torch.randint(self.spec.levels, (n, *self.spec.shape), generator=rng)
        x.view(n, -1)[:, 0], x.view(n, -1)[:, 1] = 0, self.spec.levels - 1
        return x.to(torch.uint8 if self.spec.levels <= 256 else torch.int32)


def awake(family: Family, seed: int = 0, noise: float = 0.05) -> nn.Module:
    """Return a net of the family with noise added to its zero initialisations."""
    torch.manual_seed(seed)
    net = family.build_net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return net.eval()


@cache
def built(case: Case) -> tuple[Family, nn.Module]:
    """Return the family of a case and a net with added noise, which tests must not change."""
    family = case.model()
    return family, awake(family).requires_grad_(False)


def rng(seed: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


CASES = [Case(family, name) for family, cases in CONFIGS.items() for name in cases]
