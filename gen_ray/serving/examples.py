"""Example requests for the OpenAPI document. The server accepts each of them unchanged, so /docs can send it.

Pictures are scaled to the model's size, so these examples fit every image model.
"""

from typing import Any

ONE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAL0lEQVR42m3HMQ0AIAwAsAZlSEHK"
    "JCAJKUiYg3HAydfCTCCqwMh1QRTaywfou4ID2ecLMvm5a2QAAAAASUVORK5CYII="
)
"""A PNG of 8 x 8 grey pixels that show the digit 1."""
LOWER_HALF = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAE0lEQVR42mNgIAwY/0MZTAw4GQAjtQEHAjuD0gAAAABJRU5ErkJggg=="
"""A PNG of the same size, white in its lower half."""


def _example(summary: str, **body: Any) -> dict[str, Any]:
    return {"summary": summary, "value": body}


_PICTURE = _example("A picture", images=[ONE], resize=True)
EXAMPLES: dict[str, dict[str, Any]] = {
    "sample": {
        "json": _example("Four samples", n=4, seed=7),
        "grid": _example("Sixteen samples in one picture", n=16, seed=7, format="grid"),
    },
    "impute": {
        "picture": _example("A picture without its lower half", n=2, image=ONE, mask=LOWER_HALF, resize=True, seed=7),
        "text": _example("A text with missing characters", n=2, text="To be or not to b____", seed=7),
    },
    "score": {"picture": _PICTURE},
    "encode": {"picture": _PICTURE},
    "decode": {"origin": _example("The origin of a latent space of 8 dimensions", z=[[0.0] * 8])},
    "reconstruct": {"picture": _PICTURE},
}
"""Examples of each verb by name; /docs fills in the first. decode needs as many numbers as the model's latent_dim."""
