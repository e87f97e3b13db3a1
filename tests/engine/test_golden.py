"""Golden values of the first losses of a run: only a change of the mathematics may change them."""

import pytest

from gen_ray.engine.training.step import TrainState
from tests.engine.toys import SPEC, experiment, session

# loss per example in nats of steps 0 … 4; float32, seed 0, 40 images of toys.splits, batches of 8
CURVES = {
    "vae": [59.4231, 56.6034, 54.9886, 52.8299, 52.2228],
    "ddpm-learned": [113.4767, 144.9333, 110.2568, 133.1382, 108.6422],
    "ddpm": [12.3883, 15.8824, 12.0092, 14.5258, 11.8578],
}


@pytest.mark.parametrize("family", CURVES)
def test_the_first_losses_equal_the_golden_values(family: str) -> None:
    exp = experiment(family, warmup_steps=2)
    here = session(exp)
    learner, stream = TrainState(exp.model(SPEC), exp.training, here, 10), here.batches("train").stream(0)
    losses = [float(learner.step(next(stream), step)[0][0]) for step in range(5)]
    assert losses == pytest.approx(CURVES[family], rel=1e-4)
