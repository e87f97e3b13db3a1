"""The learned gamma: it rises between its ends for any parameters, and its slope is its derivative."""

import pytest
import torch
from torch import Tensor, nn

from gen_ray.nets import Diffuser, Gamma, NoisedOutput

T = torch.linspace(0, 1, 1001, dtype=torch.float64)


def gamma(noise: float, seed: int = 0, hidden: int = 16) -> Gamma:
    torch.manual_seed(seed)
    out = Gamma(hidden, -9.0, 4.0, learn_ends=True)
    for parameter in out.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return out


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_rises_between_exact_ends_for_any_parameters(noise: float, seed: int) -> None:
    net = gamma(noise, seed)
    values, slope = net(T)
    assert (values.diff() > 0).all() and (slope > 0).all() and values.dtype == torch.float64
    first, span = net.ends()
    torch.testing.assert_close(values[[0, -1]], torch.stack([first, first + span]), rtol=1e-12, atol=1e-12)
    single = torch.cat([net(t[None])[0] for t in T[::100]])
    torch.testing.assert_close(single, values[::100], rtol=1e-12, atol=1e-12)


def test_a_new_one_is_nearly_a_straight_line_between_the_ends_it_was_given() -> None:
    values, slope = gamma(0.0, hidden=64)(T)
    torch.testing.assert_close(values, -9 + 13 * T, rtol=0, atol=0.1)
    torch.testing.assert_close(slope, torch.full_like(T, 13.0), rtol=0.1, atol=0)


def test_its_slope_is_its_derivative() -> None:
    t = T.clone().requires_grad_()
    values, slope = gamma(1.0)(t)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), t)[0], slope)


def test_ends_that_are_not_learned_are_buffers_saved_with_the_weights() -> None:
    fixed = Gamma(4, -9.0, 4.0, learn_ends=False)
    assert {name.partition(".")[0] for name, _ in fixed.named_parameters()} == {"interior"}
    assert {"first", "log_span"} <= set(fixed.state_dict())


def test_the_interior_is_trained_by_the_slope_at_fixed_gamma_not_fixed_time() -> None:
    """Compared with finite differences: after a change of each parameter, the time of the same gamma is found."""
    net, t, step = gamma(0.5), torch.tensor([0.1, 0.4, 0.83], dtype=torch.float64), 1e-4
    values, slope, found_log_slope = net.by_ends_alone(t)
    torch.testing.assert_close((values, slope), net(t))
    expected, log_slope = net.interior(t)[0].detach(), found_log_slope.detach()

    def found() -> Tensor:
        at = t.clone()
        for _ in range(30):
            value, rise = net.interior(at)
            at = at - (value - expected) / rise
        return net.interior(at)[1].log()

    torch.testing.assert_close(found(), log_slope)
    for i in range(3):
        grads = torch.autograd.grad(found_log_slope[i], list(net.interior.parameters()), retain_graph=True)
        for parameter, grad in zip(net.interior.parameters(), grads, strict=True):
            direction = torch.sign(grad)
            with torch.no_grad():
                parameter += step * direction
                there = found()[i]
                parameter -= step * direction
            moved = float(grad.abs().sum()) * step
            assert float(there - log_slope[i]) == pytest.approx(moved, rel=0.02, abs=1e-6)


class RecordingDenoiser(nn.Module):
    """A denoiser that keeps its inputs."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.x, self.t = x, t
        return x * t.view(-1, 1, 1, 1)


def test_one_forward_noises_and_denoises() -> None:
    denoiser, g = RecordingDenoiser(), gamma(0.5)
    net, t = Diffuser(denoiser, g, low=-9.0, high=4.0), torch.tensor([0.0, 0.3, 1.0])
    x_0, eps = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = net(x_0, t, eps)
    assert isinstance(seen, NoisedOutput)
    values, slope = g(t)
    snr = torch.exp(-values).view(-1, 1, 1, 1)
    torch.testing.assert_close(seen.x_t, ((snr / (1 + snr)).sqrt() * x_0 + (1 / (1 + snr)).sqrt() * eps).float())
    torch.testing.assert_close((seen.gamma, seen.rise), (values, slope))
    torch.testing.assert_close(denoiser.t, ((values + 9) / 13).float())
    torch.testing.assert_close((seen.first, seen.last), (values[0], values[2]))
    torch.testing.assert_close(net(seen.x_t, denoiser.t), seen.output)
    between = net(x_0, t, eps, torch.tensor([0.0, 0.2, 0.5]))
    torch.testing.assert_close(between.rise, values - g(torch.tensor([0.0, 0.2, 0.5]))[0])


@pytest.mark.parametrize("before", [None, 0.5])
def test_every_parameter_is_reached_by_one_forward(before: float | None) -> None:
    """In continuous time the diffused input trains the ends, and the last output only the interior."""
    net = Diffuser(RecordingDenoiser(), gamma(0.5), low=-9.0, high=4.0)
    x_0, eps = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.6, 0.7, 0.9])
    seen = net(x_0, t, eps, None if before is None else torch.full((3,), before))
    interior, ends = list(net.gamma.interior.parameters()), [net.gamma.first, net.gamma.log_span]

    def reached(part: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
        grads = torch.autograd.grad(part.sum(), parameters, retain_graph=True, allow_unused=True)
        return [g is not None and bool((g != 0).any()) for g in grads]

    diffused = seen.output.sum() + seen.rise.sum()
    assert all(reached(diffused, ends))
    if before is None:
        assert not any(reached(diffused, interior)) and all(reached(seen.log_slope, interior))
        assert not any(reached(seen.log_slope, ends))
    else:
        assert all(reached(diffused, interior)) and not seen.log_slope.any()
