"""The bits of each cell of a row given all its other known cells, which tell the unusual cells."""

import numpy as np
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows import chains
from gen_ray.tabular.columns import MISSING


def conditional_bits(model: Model, codes: np.ndarray, device: torch.device) -> np.ndarray | None:
    """Return -log2 p(x_d | all other known values), (n, D) float64, of codes (n, D); 0 where a value is missing.

    They take D evaluations and, unlike the parts of a bound, do not depend on an order of the columns. They do not add
    up to the bits of the row: of two values that exclude each other, both have many bits. None if the model does not
    have exact marginals, or is not of a table.
    """
    if not model.spec.is_table:
        return None
    found = np.zeros(codes.shape)
    for part in chains.batches(len(codes), chains.batch_rows(model.spec)):
        for d in range(codes.shape[1]):
            others = codes[part].copy()
            others[:, d] = MISSING
            p = chains.marginals(model, others, device)
            if p is None:
                return None
            values = torch.from_numpy(codes[part, d].clip(min=0).astype(np.int64)).to(p.device)
            found[part, d] = -p[:, d].gather(1, values[:, None])[:, 0].log2().cpu().numpy()
    return np.where(codes == MISSING, 0.0, found)
