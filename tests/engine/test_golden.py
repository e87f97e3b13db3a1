"""Golden values of the first losses of a run: only a change of the mathematics may change them."""

import pytest

from gen_ray.engine.training.step import TrainState
from tests.engine.tiny_models import SPEC, experiment, session

# loss per example in nats of steps 0 … 4; float32, seed 0, 40 images of tiny_models.splits, batches of 8
CURVES = {
    "vae": [59.4231, 56.6034, 54.9886, 52.8299, 52.2228],
    "ddpm-learned": [113.4767, 144.9333, 110.2568, 133.1382, 108.6422],
    "ddpm": [12.3883, 15.8824, 12.0092, 14.5258, 11.8578],
    "discrete-uniform": [45.3622, 39.7873, 43.1056, 45.0270, 35.8711],
    "discrete-absorbing": [41.8381, 67.1898, 54.8461, 40.2895, 39.7222],
    "discrete-order": [45.3314, 45.3072, 45.3073, 45.2113, 45.5936],
    "discrete-random_order": [45.3314, 45.2098, 45.8179, 45.6796, 45.8786],
    "score_sde-vp": [15.0105, 18.1026, 16.0073, 11.6262, 10.6077],
    "score_sde-ve": [15.0105, 18.1795, 16.1605, 11.8877, 11.0308],
    "score_sde-subvp": [15.0105, 18.1268, 16.0192, 11.6757, 10.6816],
}


@pytest.mark.parametrize("family", CURVES)
def test_the_first_losses_equal_the_golden_values(family: str) -> None:
    exp = experiment(family, warmup_steps=2)
    here = session(exp)
    learner, stream = TrainState(exp.model(SPEC), exp.training, here, 10), here.batches("train").stream(0)
    losses = [float(learner.step(next(stream), step)[0][0]) for step in range(5)]
    assert losses == pytest.approx(CURVES[family], rel=1e-4)
