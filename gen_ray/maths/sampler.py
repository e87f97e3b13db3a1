"""The description of samplers and imputers, and the text by which users name them: ``name:option=number,…``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gen_ray.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The description of a sampler: default steps, network evaluations (nfe) per step, summary with its source."""

    default_steps: int
    nfe_per_step: int
    summary: str
    options: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The allowed range of each option, written ``name:option=number``."""
    nfe_saved: int = 0
    """Evaluations that the last step does not need."""
    adaptive: bool = False
    """Whether one row of the table takes a variable number of evaluations, chosen by a solver."""
    causal: bool = False
    """Whether, as an imputer, it fills each position from the positions before it only and ignores those after it."""
    least_steps: int = 1
    """The smallest number of steps accepted. With fewer the method is unstable or very inaccurate, even with an exact
    net."""

    def nfe(self, steps: int) -> int:
        """Return the network evaluations of ``steps`` steps, all options at their defaults."""
        return self.nfe_per_step * steps - self.nfe_saved

    def steps_up_to(self, most: int) -> int:
        """Return the default number of steps, limited to ``most``, but not below ``least_steps``."""
        return max(self.least_steps, min(self.default_steps, most))


@dataclass(frozen=True)
class TableSampler:
    """A sampler or an imputer of one model: its description, and (steps, **options) -> its table (N, R) float64."""

    about: Sampler
    table: Callable[..., Tensor]


RENAMED_SAMPLERS: Mapping[str, str] = {"focus": "repaint_low_noise"}
"""The present names of samplers and imputers that had another name in earlier versions."""


def parse_sampler(
    text: str, known: Mapping[str, Sampler], kind: str = "sampler", *, steps: int | None
) -> tuple[str, dict[str, float]]:
    """Split ``name`` or ``name:option=number,…``. Raise UserError for an unknown name or option and for too few steps.

    kind: the word for error messages, "sampler" or "imputer". The caller checks the upper limit of steps.
    """
    name, _, tail = text.partition(":")
    if RENAMED_SAMPLERS.get(name) in known:
        raise UserError(f"{kind}: {name!r} is now called {RENAMED_SAMPLERS[name]!r}")
    if name not in known:
        raise UserError(f"{kind}: there is no {kind} {name!r}; {nearest(name, known)}")
    options: dict[str, float] = {}
    for item in filter(None, tail.split(",")):
        key, _, number = item.partition("=")
        if key not in known[name].options:
            raise UserError(
                f"{kind} {name}: there is no option {key!r}; known: {', '.join(known[name].options) or 'none'}"
            )
        low, high = known[name].options[key]
        try:
            options[key] = float(number)
        except ValueError:
            raise UserError(f"{kind} {name}: option {key}={number!r} is not a number") from None
        if not low <= options[key] <= high:
            raise UserError(f"{kind} {name}: option {key}={number} is outside [{low:g}, {high:g}]")
    least = known[name].least_steps
    if steps is not None and 0 < steps < least:
        raise UserError(f"steps: {kind} {name!r} needs at least {least} steps, got {steps}")
    return name, options
