"""The likelihood of rows of a table under independent columns, the reference of other models."""

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.tabular.columns import MISSING


def independent_nats(x: Tensor, spec: DataSpec) -> Tensor:
    """Return −ln Π_d f_d(x_d) over the observed codes of rows x (B, D), in nats (B,) float64; f: training frequencies.

    The frequencies are ``spec.frequencies``: each code counts half a value more than there are. The result is therefore
    finite, also for a code without training values. Raise ValueError for a code that a column does not have.

    The nats of a model minus these are the log-likelihood ratio of independent columns and the model. The ratio is
    comparable between codings of the same rows. A coding and a model of its codes describe values: the model draws a
    row of codes, and then each value from the training values of its code. Independent columns draw values in the same
    way, so the probabilities of values inside their codes, which are the widths of the intervals, cancel in the ratio.
    The remainder is the likelihood of the values relative to their training frequencies, which do not depend on the
    coding. Its expectation is at least minus the total correlation of the codes, which finer intervals can only
    increase (data-processing inequality): they can reveal more dependence, but not change the figure of independent
    columns, which is 0.
    """
    frequencies = torch.from_numpy(spec.frequencies).to(x.device)
    observed, codes = x != MISSING, x.long()
    if (codes >= torch.from_numpy(spec.cardinalities).to(x.device)).any():
        raise ValueError("a row has a code that its column does not have")
    chosen = frequencies[torch.arange(len(spec.columns), device=x.device), codes.clamp(min=0)]  # (B, D)
    return -chosen.log().masked_fill(~observed, 0.0).sum(1)
