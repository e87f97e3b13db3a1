"""The plot of parallel coordinates: texts do not overlap or leave the picture, and every trial is a line."""

import itertools
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gen_ray.sweeps.axes import SearchAxis
from gen_ray.sweeps.parallel import UNSET, draw, parallel_coordinates

DEEP = [{"name": "mlp", "hidden": [512, 512, 512]}, {"name": "mlp", "hidden": [16, 16]}, "mlp"]
SPACES: dict[str, dict[str, Any]] = {
    "one key": {"family.latent_dim": {"choice": [50, 2, 5]}},
    "every kind": {
        "family.net": {"choice": DEEP},
        "training.betas": {"choice": [[0.9, 0.999], [0.5, 0.9]]},
        "training.learning_rate": {"loguniform": [1.3e-5, 0.9]},
        "training.ema_decay": {"uniform": [0.9, 0.9999]},
        "family.latent_dim": {"randint": [1, 1000]},
        "family.a_key_with_a_name_that_is_very_long_indeed.and_more": {"choice": [True, False, None]},
    },
    "narrow ranges": {"training.learning_rate": {"loguniform": [1e-3, 1.1e-3]}, "family.x": {"randint": [3, 4]}},
    "many choices": {"family.latent_dim": {"choice": list(range(40))}, "family.net": {"choice": DEEP * 1}},
    "dollars": {"family.$x_{": {"choice": ["$a$", "b$c", "\\frac{"]}, "family.y": {"choice": ["_", "$$"]}},
    "on a condition": {
        "family.schedule": {"choice": ["cosine", "linear"]},
        "family.tau": {"uniform": [0.0, 1.0], "when": {"family.schedule": "cosine"}},
    },
}


def drawn(space: dict[str, SearchAxis], sign: int = 1) -> tuple[Figure, list[tuple[dict[str, Any], float]]]:
    trials: list[tuple[dict[str, Any], float]] = []
    for number, values in enumerate(itertools.islice(itertools.product(*(axis.ends for axis in space.values())), 12)):
        point: dict[str, Any] = {}
        for (key, axis), value in zip(space.items(), values, strict=True):
            if axis.active(point):
                point[key] = value
        trials.append((point, 1.7 + 0.1 * number))
    return draw(trials, space, "eval/bits_per_dim", sign), trials


@pytest.mark.parametrize("name", SPACES)
def test_texts_do_not_overlap_and_are_inside_the_picture(name: str) -> None:
    space = {key: SearchAxis(**axis) for key, axis in SPACES[name].items()}
    figure, _ = drawn(space)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in figure.axes[0].texts]
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1), (one, other)


@pytest.mark.parametrize("sign", [1, -1])
def test_each_trial_is_a_line_and_the_best_one_is_red(sign: int) -> None:
    space = {key: SearchAxis(**axis) for key, axis in SPACES["on a condition"].items()}
    figure, trials = drawn(space, sign)
    lines = figure.axes[0].lines[len(space) + 1 :]
    assert len(lines) == len(trials) and [line.get_color() == "tab:red" for line in lines].count(True) == 1
    best = lines[-1].get_ydata()
    assert best[0] == (0 if sign == 1 else 1)
    assert any(UNSET in line.get_ydata() for line in lines), "a key that is not active has a separate place"
    assert parallel_coordinates(trials, space, "m", sign).shape[2] == 3
