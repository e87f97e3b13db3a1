"""How a network's output is read: as a prediction of x_0 and, where it has one, a say on the variance."""

from dataclasses import dataclass

from torch import Tensor, nn

from gen_ray.maths.gaussian import Prediction
from gen_ray.maths.tables import Variance


@dataclass(frozen=True)
class Parametrization:
    """prediction is what the output stands for, variance whose variance the steps have, clip whether x̂_0 is clamped."""

    prediction: Prediction
    variance: Variance
    clip: bool
    levels: int

    @property
    def learns_variance(self) -> bool:
        """Return whether half of the output's channels are about the variance."""
        return self.variance is Variance.LEARNED

    def evaluate(self, net: nn.Module, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the prediction (B, C, H, W) and v, −1 for the smallest and 1 for the largest variance, or None."""
        output = net(x_t, t).float()
        if not self.learns_variance:
            return output, None
        prediction, v = output.chunk(2, dim=1)
        return prediction, v

    def clipped(self, x_0: Tensor) -> Tensor:
        """Return x_0 clamped to the data's range if so configured."""
        return x_0.clamp(-1, 1) if self.clip else x_0
