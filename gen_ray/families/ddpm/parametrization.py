"""The parametrisation of a DDPM: how the network's output gives a prediction and, optionally, a learned variance."""

from dataclasses import dataclass

from torch import Tensor, nn

from gen_ray.maths.features import Features, Roles
from gen_ray.maths.gaussian import Prediction
from gen_ray.maths.tables import Variance


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
        """Return whether half of the output's channels predict the variance."""
        return self.variance is Variance.LEARNED

    def evaluate(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, roles: Roles | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the prediction and v, each (B, *shape); v is −1 at the smallest and 1 at the largest variance.

        t (B,) is the net's time; alpha and sigma (B, 1, …) are the marginal's. Given features of x_t are without noise;
        roles None: all are noisy. v is None if the variance is not learned.
        """
        output = net(self.features.net_input(x_t, roles), t).float()
        if not self.learns_variance:
            return self.predicted(output, x_t, alpha, sigma), None
        output, v = output.chunk(2, dim=1)
        return self.predicted(output, x_t, alpha, sigma), v

    def predicted(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the prediction (B, *shape) from a net's output of the same shape."""
        return self.features.prediction(output, x_t, alpha, sigma, self.prediction)

    def clipped(self, x_0: Tensor) -> Tensor:
        """Return x_0 (B, *shape), clamped to [−1, 1] if configured."""
        return x_0.clamp(-1, 1) if self.clip else x_0
