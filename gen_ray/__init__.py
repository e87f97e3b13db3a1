"""gen_ray: train, sweep, compare and serve the classical families of generative models on Ray."""

__version__ = "0.1.0"
