"""The parametrisation of a DDPM: how the network's output gives a prediction and, optionally, a learned variance."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from gen_ray.maths.features import Features, Roles
from gen_ray.maths.gaussian import Prediction
from gen_ray.maths.tables import Variance


class NetOutput(NamedTuple):
    """A net's output for the prediction, the prediction (B, *shape), and v (B, *shape) or None (``evaluate``)."""

    output: Tensor
    prediction: Tensor
    v: Tensor | None


@dataclass(frozen=True)
class Parametrization:
    """The meaning of a network's input and output.

    prediction: the predicted quantity; variance: the choice of the steps' variance; clip: whether x̂_0 is clamped to
    [−1, 1]; features: the conversion between stored data and x_0.
    """

    prediction: Prediction
    variance: Variance
    clip: bool
    features: Features

    @property
    def learns_variance(self) -> bool:
        """Return whether the last channels of the output, one for each of x_t, predict the variance."""
        return self.variance is Variance.LEARNED

    def evaluate(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, roles: Roles | None = None
    ) -> NetOutput:
        """Return the net's output, the prediction and v; v is −1 at the smallest and 1 at the largest variance.

        t (B,) is the net's time; alpha and sigma (B, 1, …) are the marginal's. Given features of x_t are without noise;
        roles None: all are noisy. v is None if the variance is not learned.
        """
        output, v = net(self.features.net_input(x_t, roles), t).float(), None
        if self.learns_variance:
            output, v = output.split([self.features.output_channels, self.features.shape[0]], dim=1)
        return NetOutput(output, self.predicted(output, x_t, alpha, sigma), v)

    def predicted(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the prediction (B, *shape) from a net's output."""
        return self.features.prediction(output, x_t, alpha, sigma, self.prediction)

    def clipped(self, x_0: Tensor) -> Tensor:
        """Return x_0 (B, *shape), clamped to [−1, 1] if configured."""
        return x_0.clamp(-1, 1) if self.clip else x_0
