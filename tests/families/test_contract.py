"""The contract suite: laws that every family and every configuration satisfies."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gen_ray import families
from gen_ray.configuration.base import Config, validated
from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from gen_ray.family import Family
from gen_ray.maths.chain import Chain, Known
from gen_ray.maths.noise import RowNoise
from gen_ray.maths.sampler import Sampler
from tests.families.cases import CASES, CONFIGS, PROMISES, Case, awake, built, rng

CPU = torch.device("cpu")
everywhere = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.name}")
every_family = pytest.mark.parametrize("name", families.names())


@every_family
def test_every_family_is_under_contract(name: str) -> None:
    assert CONFIGS[name] and PROMISES[name]
    assert families.find(name).Config.model_fields["name"].default == name


Choice = tuple[type[Config], str, str]
"""A config, one of its keys, and one of its possible words: a Literal's, or the name of a config of a union."""


def choices(config: type[Config]) -> Iterator[Choice]:
    """Yield the named choices of a config and of the configs below it."""
    for key, field in config.model_fields.items():
        for option in options(field.annotation):
            if isinstance(option, str):
                yield config, key, option
            else:
                yield config, key, option.model_fields["name"].default
                yield from choices(option)


def options(hint: Any) -> list[Any]:
    """Return the literals and configs in a type hint."""
    if isinstance(hint, str) or (isinstance(hint, type) and issubclass(hint, Config)):
        return [hint]
    return [option for part in get_args(hint) for option in options(part)]


def chosen(config: Config) -> Iterator[Choice]:
    """Yield the choices made in a config."""
    for key in type(config).model_fields:
        value = getattr(config, key)
        if isinstance(value, str):
            yield type(config), key, value
        elif isinstance(value, Config):
            yield type(config), key, value.name
            yield from chosen(value)


@every_family
def test_every_named_choice_is_under_contract(name: str) -> None:
    """Every named kernel, SDE, schedule, solver, net and option needs a case."""
    made = {choice for case in CASES if case.family == name for choice in chosen(case.experiment().family)}
    expected = set(choices(families.find(name).Config))
    assert {(config.__name__, *words) for config, *words in expected ^ made} == set()


# ---- the loss ---------------------------------------------------------------------------------------------------


@everywhere
def test_the_loss_is_finite_per_example_and_changes_nothing(case: Case) -> None:
    family, net = built(case)
    x, before, state = case.x(5), case.x(5), torch.get_rng_state()
    terms = family.loss(net, x, rng(), step=0)
    for part in (terms.total, *terms.parts.values()):
        assert part.shape == (5,) and part.dtype == torch.float32 and part.isfinite().all()
    assert terms.parts and torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state), "randomness is an argument"


@everywhere
def test_the_loss_depends_on_its_generator_only(case: Case) -> None:
    family, net = built(case)
    first, again, other = (family.loss(net, case.x(5), rng(seed), step=0).total for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(first, other) == case.exact


READINGS: dict[str, Callable[..., Tensor]] = {
    "loss": lambda family, net, x: family.loss(net, x, rng(), step=0).total,
    "nll-1": lambda family, net, x: family.nll(net, x, rng(), effort=1).nats,
    "nll-4": lambda family, net, x: family.nll(net, x, rng(), effort=4).nats,
}


@everywhere
@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_the_loss_of_a_row_does_not_depend_on_other_rows(case: Case, reading: Callable[..., Tensor]) -> None:
    """All other rows are replaced with the same noise; the loss of a row stays the same."""
    family, net = built(case)
    x, others = case.x(4), case.x(4, seed=1)
    for i in range(4):
        mixed = others.clone()
        mixed[i] = x[i]
        first, second = reading(family, net, x), reading(family, net, mixed)
        torch.testing.assert_close(second[i], first[i], rtol=1e-4, atol=1e-3)
        assert not torch.allclose(second, first)


@everywhere
def test_the_stored_dtype_does_not_matter(case: Case) -> None:
    family, net = built(case)
    for reading in READINGS.values():
        assert torch.equal(reading(family, net, case.x(3)), reading(family, net, case.x(3).long()))


@everywhere
def test_gradients_reach_every_parameter(case: Case) -> None:
    family = case.model()
    net = awake(family)
    family.loss(net, case.x(8), rng(), step=0).total.mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@everywhere
def test_a_step_against_the_gradient_lowers_the_loss(case: Case) -> None:
    family = case.model()
    net, x = awake(family), case.x(16)
    before = family.loss(net, x, rng(), step=100).total.mean()
    gradients = torch.autograd.grad(before, list(net.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter -= 1e-3 / norm * gradient
        after = family.loss(net, x, rng(), step=100).total.mean()
    assert 0.5 < (before - after) / (1e-3 * norm) < 1.5  # the decrease predicted by the gradient


@everywhere
def test_bfloat16_is_near_float32_and_returns_float32(case: Case) -> None:
    family, net = built(case)
    exact = family.loss(net, case.x(8), rng(), step=0).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = family.loss(net, case.x(8), rng(), step=0).total
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.15, atol=0.5)


# ---- the likelihood -----------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("effort", [1, 2, 5, 1000])
def test_a_likelihood_states_its_kind_and_cost(case: Case, effort: int) -> None:
    family, net = built(case)
    counted = Counted(net)
    nll = family.nll(counted, case.x(3), rng(), effort=effort)
    assert nll.nats.shape == (3,) and nll.nats.isfinite().all() and (nll.nats > 0).all()
    assert all(part.shape == (3,) and part.isfinite().all() for part in nll.parts.values())
    assert nll.kind == case.promise.kind(case.settings, effort) + ("-partial" if case.missing else "")
    observed = int((case.x(3) >= 0).flatten(1).sum(1).max())
    promised = case.promise.nfe({**case.settings, "dims": observed}, effort)
    assert nll.nfe == counted.evaluations and promised in (nll.nfe, None)
    if nll.parts:
        torch.testing.assert_close(sum(nll.parts.values()), nll.nats)
    if nll.cells is not None:
        assert nll.cells.shape == (3, *case.spec.shape) and not nll.cells[case.x(3) < 0].any()
        torch.testing.assert_close(nll.cells.flatten(1).sum(1).float(), nll.nats.float())


class Counted(torch.nn.Module):
    """A net that counts the rows that pass through its generative half."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.evaluations = net, 0

    def forward(self, *args: Tensor) -> object:
        self.evaluations += 1
        return self.net(*args)

    def encode(self, x: Tensor) -> object:
        return self.net.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        self.evaluations += 1
        return self.net.decode(z)


@everywhere
def test_less_effort_does_not_improve_the_likelihood(case: Case) -> None:
    family, net = built(case)
    x, repeats = case.x(1), 1000
    cheap, dear = (
        family.nll(net, x.expand(repeats, *x.shape[1:]), rng(effort), effort=effort).nats.double() for effort in (1, 12)
    )
    error = math.hypot(cheap.std() / math.sqrt(repeats), dear.std() / math.sqrt(repeats))
    assert cheap.mean() >= dear.mean() - 4 * error


# ---- the samplers -------------------------------------------------------------------------------------------------


def few(chain: Sampler) -> int:
    """Return three steps, or the nearest number that a sampler or imputer allows."""
    return chain.steps_up_to(3)


def chains(family: Family) -> Iterator[tuple[str, int | None, Chain]]:
    """Yield every sampler with default steps, with few steps, and with the extremes of its options."""
    for name, sampler in family.samplers().items():
        options = [f"{name}:{key}={end}" for key, ends in sampler.options.items() for end in ends]
        for text in (name, *options):
            for steps in (None, *{sampler.least_steps, few(sampler)} - {sampler.default_steps}):
                yield text, steps, family.chain(text, steps)


@everywhere
def test_a_table_has_as_many_rows_as_evaluations(case: Case) -> None:
    family, net = built(case)
    for text, steps, chain in chains(family):
        sampler = family.samplers()[text.partition(":")[0]]
        assert chain.table.dtype == torch.float64 and chain.table.isfinite().all()
        assert len(chain.table) == chain.nfe == sampler.nfe(steps or sampler.default_steps)
        counted = Counted(net)
        x = generate(counted, chain, 3, seed=0, device=CPU)
        assert (counted.evaluations == chain.nfe or sampler.adaptive) and sampler.summary
        assert x.shape == (3, *case.spec.shape) and not x.is_floating_point()
        assert int(x.min()) >= 0 and bool((x < torch.from_numpy(case.spec.cardinalities)).all())


@everywhere
def test_a_sample_does_not_depend_on_its_neighbours(case: Case) -> None:
    family, net = built(case)
    for _, _, chain in chains(family):
        few, many, later = (
            generate(net, chain, n, seed=7, device=CPU, batch_size=size, first=first).int()
            for n, size, first in ((5, 5, 0), (9, 9, 0), (4, 2, 5))
        )
        assert (few - many[:5]).abs().max() <= 1
        assert (later - many[5:]).abs().max() <= 1
        start = [chain.stepper.start(RowNoise.of(7, n), CPU) for n in (5, 9)]
        assert all(torch.equal(start[0][key], start[1][key][:5]) for key in start[0])  # noise: to the bit


@everywhere
def test_another_seed_gives_another_sample(case: Case) -> None:
    family, _ = built(case)
    chain = family.chain(list(family.samplers())[-1])
    first, same, other = (chain.stepper.start(RowNoise.of(seed, 4), CPU) for seed in (0, 0, 1))
    key = next(iter(first))
    assert torch.equal(first[key], same[key]) and (first[key] != other[key]).flatten(1).any(1).all()
    assert (first[key][0] != first[key][1]).any()


@everywhere
def test_rows_of_different_chains_share_a_batch(case: Case) -> None:
    """Requests with different samplers, lengths, seeds and starts give the same results together as separately."""
    family, net = built(case)
    jobs = [(chain, 10 + j, j % 3) for j, (_, _, chain) in enumerate(chains(family))]  # chain, seed, tick of arrival
    stepper, done, walking = jobs[0][0].stepper, {}, {}
    for now in range(1, 3 + max(chain.nfe for chain, _, _ in jobs)):
        for j, (_, seed, arrival) in enumerate(jobs):
            if arrival == now - 1:
                walking[j] = stepper.start(RowNoise.of(seed, 2), CPU)
        if not walking:
            continue
        ages = {j: now - jobs[j][2] for j in walking}
        rows = torch.cat([jobs[j][0].table[ages[j] - 1].expand(2, -1) for j in walking])
        noise = RowNoise(
            [jobs[j][1] for j in walking for _ in range(2)],
            [row for _ in walking for row in range(2)],
            [ages[j] for j in walking for _ in range(2)],
        )
        state = {key: torch.cat([s[key] for s in walking.values()]) for key in next(iter(walking.values()))}
        out = stepper.tick(net, state, rows, noise)
        for position, j in enumerate(list(walking)):
            walking[j] = {key: value[2 * position : 2 * position + 2] for key, value in out.items()}
            if ages[j] == jobs[j][0].nfe:
                done[j] = stepper.finish(walking.pop(j))
    assert len(done) == len(jobs)
    for j, (chain, seed, _) in enumerate(jobs):
        single = generate(net, chain, 2, seed=seed, device=CPU)
        assert (done[j].int() - single.int()).abs().max() <= 1


# ---- imputation -----------------------------------------------------------------------------------------------------


def imputers(family: Family) -> Iterator[tuple[str, int | None, Chain]]:
    """Yield every imputer with default steps, with few steps, and with the extremes of its options."""
    for name, imputer in family.imputers().items():
        options = [f"{name}:{key}={end}" for key, ends in imputer.options.items() for end in ends]
        for text in (name, *options):
            for steps in (None, few(imputer)):
                yield text, steps, family.impute(text, steps)


TICKS = 20
"""Rows of a table that show whether completions depend on each other."""


def partly_known(case: Case, n: int) -> Known:
    """Return n examples with scattered known scalars; in one row none are known, in another all."""
    mask = torch.rand((n, *case.spec.shape), generator=rng(n)) < 0.5
    mask[0], mask[-1] = False, True
    x = case.x(n)
    return Known(known=torch.where(mask, x.clamp(min=0), x) if case.missing else x, mask=mask)


def noted(x: Tensor, given: Known) -> Tensor:
    """Check that the known part is unchanged to the bit, and return the completions as integers."""
    assert x.shape == given.known.shape and torch.equal(x[given.mask].long(), given.known[given.mask].long())
    return x.int()


@everywhere
def test_completions_keep_known_values_and_stay_within_the_levels(case: Case) -> None:
    family, net = built(case)
    for text, steps, chain in imputers(family):
        imputer, counted, given = family.imputers()[text.partition(":")[0]], Counted(net), partly_known(case, 5)
        assert chain.table.dtype == torch.float64 and chain.table.isfinite().all() and imputer.summary
        assert ":" in text or chain.nfe == imputer.nfe(steps or imputer.default_steps)
        if steps is None and few(imputer) == imputer.default_steps:
            continue  # the next chain, with few steps, is the same
        x = generate(counted, chain, 5, seed=0, device=CPU, known=given)
        assert counted.evaluations == chain.nfe
        noted(x, given)
        assert x.dtype == given.known.dtype and int(x.min()) >= 0 and int(x.max()) < case.spec.levels


@everywhere
def test_a_completion_does_not_depend_on_its_neighbours(case: Case) -> None:
    """It does not depend on the values at missing places either."""
    family, net = built(case)
    for _, steps, chain in imputers(family):
        if steps is None:
            continue
        given = partly_known(case, 7)
        chain = Chain(chain.table[-TICKS:], chain.stepper)  # rounding errors and time grow with hundreds of rows
        many = noted(generate(net, chain, 7, seed=3, device=CPU, known=given), given)
        other = Known(known=torch.where(given.mask, given.known, 0), mask=given.mask)
        few, later = (
            generate(net, chain, n, seed=3, device=CPU, batch_size=2, first=first, known=other.part(first, n)).int()
            for n, first in ((3, 0), (4, 3))
        )
        assert (torch.cat([few, later]) - many).abs().max() <= 1


@everywhere
def test_completions_that_started_at_different_ticks_share_a_batch(case: Case) -> None:
    family, net = built(case)
    name = next(iter(family.imputers()))
    chain, given = family.impute(name, few(family.imputers()[name])), partly_known(case, 4)
    states = [chain.stepper.start(RowNoise.of(0, 2, first=first), CPU, given.part(first, 2)) for first in (0, 2)]
    together = {key: torch.cat([state[key] for state in states]) for key in states[0]}
    for tick, row in enumerate(chain.table, start=1):
        together = chain.stepper.tick(net, together, row.expand(4, -1), RowNoise.of(0, 4).at(tick))
    single = generate(net, chain, 4, seed=0, device=CPU, known=given)
    assert (noted(chain.stepper.finish(together), given) - single.int()).abs().max() <= 1


@everywhere
def test_another_seed_gives_another_completion(case: Case) -> None:
    family, net = built(case)
    for name in family.imputers():
        x = case.x(1).expand(12, *case.spec.shape).clone()
        given = Known(known=x, mask=torch.zeros_like(x, dtype=torch.bool))
        few_steps = few(family.imputers()[name])
        # After fewer Euler steps of a flow, all rows of a table are near the mean.
        steps = max(50, few_steps) if name == "pf_ode" else few_steps
        chain = family.impute(name, steps)
        first, again, other = (generate(net, chain, 12, seed=seed, device=CPU, known=given) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)


@every_family
def test_a_wrong_imputer_is_refused_with_the_known_ones(name: str) -> None:
    family = Case(name, next(iter(CONFIGS[name]))).model()
    known = next(iter(family.imputers()))
    with pytest.raises(UserError, match=known):
        family.impute("no-such-imputer")
    with pytest.raises(UserError, match=r"no option .*known: "):
        family.impute(f"{known}:no_such_option=1")
    for steps in (0, -1, 10**9):
        with pytest.raises(UserError, match="steps"):
            family.impute(known, steps)


@everywhere
def test_fewer_steps_than_the_minimum_are_refused(case: Case) -> None:
    """Covers samplers and imputers, also with options, and their defaults."""
    family = case.model()
    made = [(family.chain, "sampler", family.samplers()), (family.impute, "imputer", family.imputers())]
    for make, kind, known in made:
        for name, about in known.items():
            assert 1 <= about.least_steps <= about.default_steps
            for steps in {1, about.least_steps - 1} - {0, about.least_steps}:
                line = f"^steps: {kind} '{name}' needs at least {about.least_steps} steps, got {steps}$"
                for text in (name, *(f"{name}:{key}={ends[1]}" for key, ends in about.options.items())):
                    with pytest.raises(UserError, match=line):
                        make(text, steps)


def test_a_configuration_with_too_few_steps_is_refused() -> None:
    case = Case("score_sde", "vp-eps-mlp")
    resolved = case.experiment().resolved()
    resolved["evaluation"] |= {"sampler": "euler_maruyama", "steps": 10}
    with pytest.raises(
        UserError, match=r"^evaluation\.steps: sampler 'euler_maruyama' needs at least 51 steps, got 10$"
    ):
        parse(resolved).model(case.spec)


# ---- errors and settings ------------------------------------------------------------------------------------------


@every_family
def test_errors_are_named_with_the_known_values(name: str) -> None:
    case = Case(name, next(iter(CONFIGS[name])))
    family, promise = case.model(), PROMISES[name]
    known = next(iter(family.samplers()))
    with pytest.raises(UserError, match=known):
        family.chain("no-such-sampler")
    with pytest.raises(UserError, match=r"no option .*known: "):
        family.chain(promise.unknown_option)
    for steps in (0, -1, promise.too_many_steps):
        with pytest.raises(UserError, match="steps"):
            family.chain(known, steps)
    with pytest.raises(UserError, match=f"{promise.refuses.name} holds {promise.refuses.kind}"):
        families.find(name)(family.config, promise.refuses)


@pytest.mark.parametrize("text", ["ddim:eta=2", "ddim:eta=-0.1", "ddim:eta=nan", "ddim:eta=", "ddim:eta"])
def test_an_option_out_of_range_is_named(text: str) -> None:
    family, _ = built(Case("ddpm", "eps-small-simple-cosine-unet"))
    with pytest.raises(UserError, match="eta"):
        family.chain(text)


@everywhere
def test_the_resolved_configuration_is_complete(case: Case) -> None:
    experiment = case.experiment()
    resolved = experiment.resolved()
    assert parse(resolved) == experiment and parse(resolved).resolved() == resolved
    config = families.find(case.family).Config
    assert validated(config, resolved["family"]) == experiment.family
    assert _holds(resolved["family"], case.settings)


def _holds(resolved: object, settings: object) -> bool:
    """Return whether the resolved form contains every given setting; ``cosine`` is short for its mapping."""
    if isinstance(settings, Mapping):
        return isinstance(resolved, Mapping) and all(_holds(resolved[key], value) for key, value in settings.items())
    return resolved == settings or (isinstance(resolved, Mapping) and resolved["name"] == settings)


@every_family
def test_an_unknown_or_ineffective_setting_is_refused(name: str) -> None:
    case = Case(name, next(iter(CONFIGS[name])))
    with pytest.raises(UserError, match=r"family\.no_such_key"):
        parse({"name": "x", "family": {**case.settings, "no_such_key": 1}})


@everywhere
def test_the_weights_determine_a_net(case: Case) -> None:
    family, net = built(case)
    other = awake(family, seed=1).requires_grad_(False)
    before = family.loss(other, case.x(3), rng(), step=0).total
    other.load_state_dict(net.state_dict())
    expected = family.loss(net, case.x(3), rng(), step=0).total
    assert torch.equal(family.loss(other, case.x(3), rng(), step=0).total, expected) and (before != expected).any()
    chain = family.chain(list(family.samplers())[-1])
    assert torch.equal(*(generate(n, chain, 3, seed=0, device=CPU) for n in (net, other)))
