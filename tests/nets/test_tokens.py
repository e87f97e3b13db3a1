"""The contract of nets over symbols, and additional laws of causal nets."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from gen_ray.nets import CategoricalConfig, CategoricalLayout, LevelUNetConfig, TokensConfig
from gen_ray.nets.attention import attend
from gen_ray.nets.tokens import position_embeddings

TOKENS = TokensConfig(width=32, depth=2, heads=2)
UNET = LevelUNetConfig(width=16, multipliers=(1, 2), embedding=8)
K = 5
CASES = {
    "tokens-text": (TOKENS, (11,), False),
    "tokens-text-causal": (TOKENS, (11,), True),
    "tokens-image": (TOKENS, (1, 4, 6), False),
    "tokens-colour-causal": (TOKENS, (3, 4, 2), True),
    "unet": (UNET, (1, 7, 9), False),
    "unet-colour": (UNET, (3, 8, 8), False),
}
every_net = pytest.mark.parametrize("case", CASES)
causal = pytest.mark.parametrize("case", [name for name, (_, _, causal) in CASES.items() if causal])


def built(case: str, noise: float = 0.1) -> tuple[nn.Module, tuple[int, ...]]:
    config, shape, is_causal = CASES[case]
    torch.manual_seed(0)
    net = config.build_categorical(CategoricalLayout(shape=shape, symbols=K + 1, levels=K, causal=is_causal))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return net, shape


def symbols(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(K + 1, (n, *shape), generator=torch.Generator().manual_seed(1))


@every_net
def test_a_new_net_gives_all_categories_equal_probability(case: str) -> None:
    net, shape = built(case, noise=0)
    assert torch.equal(net(symbols(3, shape), torch.rand(3)), torch.zeros(3, *shape, K))


@every_net
def test_gradients_reach_every_parameter(case: str) -> None:
    net, shape = built(case)
    net(symbols(3, shape), torch.rand(3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_net
def test_every_parameter_of_a_new_net_can_be_trained(case: str) -> None:
    """If both the gate of a block and its input were initialised to zero, neither would ever change."""
    config, shape, is_causal = CASES[case]
    net = config.build_categorical(CategoricalLayout(shape=shape, symbols=K + 1, levels=K, causal=is_causal))
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        (net(symbols(3, shape), torch.rand(3)) - 1 - torch.randn(K)).square().mean().backward()
        optimizer.step()
    assert not [name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])]


@every_net
def test_the_logits_depend_on_symbols_and_time_but_not_on_other_rows(case: str) -> None:
    net, shape = built(case)
    x, t = symbols(4, shape), torch.rand(4)
    here = net(x, t)
    assert not torch.allclose(here, net((x + 1) % (K + 1), t), atol=1e-3)
    assert not torch.allclose(here, net(x, t / 2), atol=1e-3)
    single = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(here, single, rtol=1e-4, atol=1e-5)


@every_net
def test_autocast_returns_float32_near_the_exact_logits(case: str) -> None:
    net, shape = built(case)
    x, t = symbols(4, shape), torch.rand(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x, t)
    exact = net(x, t)
    assert rough.dtype == torch.float32 and (rough - exact).norm() < 0.05 * exact.norm()


@causal
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_causal_net_uses_earlier_positions_only(case: str, precision: torch.dtype) -> None:
    """Position i changes all later logits, but not its own or earlier ones."""
    net, shape = built(case)
    x, t = symbols(2, shape), torch.zeros(2)
    L = x[0].numel()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        here = net(x, t).flatten(1, -2)
        for i in range(L):
            other = x.flatten(1).clone()
            other[:, i] = (other[:, i] + 1) % K
            changed = (net(other.view(x.shape), t).flatten(1, -2) - here).abs().amax((0, 2)) > 0
            assert changed.tolist() == [j > i for j in range(L)]


def test_a_net_that_is_not_causal_uses_all_positions() -> None:
    net, shape = built("tokens-text")
    x, t = symbols(1, shape), torch.zeros(1)
    other = x.clone()
    other[:, -1] = (other[:, -1] + 1) % K
    assert ((net(x, t) - net(other, t)).abs().amax((0, 2)) > 0).all()


def test_causal_attention_is_the_same_on_both_paths() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    exact = attend(q, k, v, causal=True)
    torch.testing.assert_close(exact[:, :, 0], v[:, :, 0])
    for i in (3, 9):
        torch.testing.assert_close(
            exact[:, :, i : i + 1], attend(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1])
        )
    rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal=True)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(300,), (1, 9, 7), (3, 5, 5)])
def test_every_position_has_a_different_embedding(shape: tuple[int, ...]) -> None:
    found = position_embeddings(shape, 32)
    assert found.shape == (torch.Size(shape).numel(), 32)
    distances = torch.cdist(found[None], found[None])[0] + torch.eye(len(found)) * 9
    assert distances.min() > 0.05


@every_net
def test_a_config_survives_a_round_trip_through_the_union(case: str) -> None:
    config = CASES[case][0]
    assert TypeAdapter(CategoricalConfig).validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("bad", [{"name": "dit"}, {"heads": 3}, {"name": "unet", "embedding": 0}])
def test_a_bad_config_is_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(CategoricalConfig).validate_python({"name": "tokens"} | bad)
