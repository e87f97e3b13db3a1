"""The update of a VAE's samplers and imputers, which executes their tables."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.chain import Known, State
from gen_ray.maths.noise import RowNoise
from gen_ray.maths.observation import Observation
from gen_ray.nets import Autoencoder


@dataclass(frozen=True)
class DecodeStepper:
    """The update of a VAE: optionally move z, then set x to the mean of p(x|z) or a draw; the known part is fixed.

    A table row is (draw, move, correct), each 0 or 1. draw: set x to a draw from p(x|z), not to the mean. move: propose
    z' ~ q(z|x) for the current completion x (Rezende et al. 2014, section 4.2). correct: accept z' with the probability
    that makes p(x_missing | x_known) stationary for every encoder (Mattei & Frellsen 2018, algorithm 1). Without move,
    z does not change; it starts as z ~ N(0, I).
    """

    latent_dim: int
    shape: tuple[int, ...]
    observation: Observation

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state: z ~ N(0, I) (B, Z), and the known part as p(x|z) models it."""
        x = torch.full((noise.batch, *self.shape), float(self.observation.undecided), device=device)
        values, seen, mask = x, x, torch.zeros_like(x, dtype=torch.bool)
        if known is not None:
            values, mask = known.known.to(device), known.mask.to(device)
            seen = self.observation.seen(values, noise.uniform(self.shape, device=device)).to(x)
        params = torch.zeros(noise.batch, self.observation.out_channels, *self.shape[1:], device=device)
        z = noise.normal((self.latent_dim,), device=device)
        return {"z": z, "params": params, "x": x, "seen": seen, "known": values, "mask": mask}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance by one decoder evaluation, and one encoder evaluation if any row moves; rows (B, 3)."""
        drawn, moving, corrected = (rows[:, column].cpu() > 0 for column in range(3))
        z, params, device = state["z"], state["params"], state["z"].device
        # u: D uniforms for the draw and one more for the acceptance
        u = noise.uniform((math.prod(self.shape) + 1,), where=drawn, device=device)
        proposed, mu, log_var = z, z, z
        if moving.any():
            mu, log_var = cast(Autoencoder, net).encode(self.observation.scaled(state["seen"]))
            eps = noise.normal((self.latent_dim,), where=moving, device=device)
            proposed = _where(moving, mu + (log_var / 2).exp() * eps, z)
        decoded = cast(Autoencoder, net).decode(proposed)
        if corrected.any():
            new, old = (self._log_weight(state["seen"], *at, mu, log_var) for at in ((proposed, decoded), (z, params)))
            accepted = ~corrected.to(device) | (u[:, -1] < (new - old).exp())
            proposed, decoded = _where(accepted, proposed, z), _where(accepted, decoded, params)
        return {**state, "z": proposed, "params": decoded, **self._complete(state, decoded, drawn, u[:, :-1])}

    def _log_weight(self, seen: Tensor, z: Tensor, params: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        """Return log p(x, z) − log q(z|x) up to terms that do not depend on z, (B,) float64."""
        log_likelihood = self.observation.log_prob(seen, params).flatten(1).double().sum(1)
        return log_likelihood + 0.5 * ((z - mu) ** 2 * (-log_var).exp() - z**2).double().sum(1)

    def _complete(self, state: State, params: Tensor, drawn: Tensor, u: Tensor) -> State:
        """Return x from p(x|z), and the encoder's input ``seen``: known values, and x where they are missing."""
        x = self.observation.mean(params)
        if drawn.any():
            sample = self.observation.draw(params, u.reshape(-1, *self.shape))
            x = _where(drawn, sample.to(x.dtype), x)
        seen = self.observation.seen(x, torch.full((), 0.5, device=x.device)).to(state["seen"].dtype)
        return {"x": x, "seen": torch.where(state["mask"], state["seen"], seen)}

    def finish(self, state: State) -> Tensor:
        """Return the stored data (B, *shape)."""
        known, x = (self.observation.stored(state[key]) for key in ("known", "x"))
        return torch.where(state["mask"], known, x)

    def preview(self, state: State) -> Tensor:
        """Return the current completion (B, *shape)."""
        return self.finish(state)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return (B, …): the rows of yes where rows (B,) is True, else those of no."""
    return torch.where(append_dims(rows.to(yes.device), yes.ndim), yes, no)
