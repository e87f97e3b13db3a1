"""The parametrisation of a DDPM: how the network's output gives a prediction and, optionally, a learned variance."""

from dataclasses import dataclass

from torch import Tensor, nn

from gen_ray.maths.gaussian import Prediction
from gen_ray.maths.tables import Variance


@dataclass(frozen=True)
class Parametrization:
    """The meaning of a network's output.

    prediction: the predicted quantity; variance: the choice of the steps' variance; clip: whether x̂_0 is clamped to
    [−1, 1]; levels: the number of levels of the data.
    """

    prediction: Prediction
    variance: Variance
    clip: bool
    levels: int

    @property
    def learns_variance(self) -> bool:
        """Return whether half of the output's channels predict the variance."""
        return self.variance is Variance.LEARNED

    def evaluate(self, net: nn.Module, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the prediction and v, each (B, C, H, W); v is −1 at the smallest and 1 at the largest variance.

        v is None if the variance is not learned.
        """
        output = net(x_t, t).float()
        if not self.learns_variance:
            return output, None
        prediction, v = output.chunk(2, dim=1)
        return prediction, v

    def clipped(self, x_0: Tensor) -> Tensor:
        """Return x_0 (B, C, H, W), clamped to [−1, 1] if configured."""
        return x_0.clamp(-1, 1) if self.clip else x_0
