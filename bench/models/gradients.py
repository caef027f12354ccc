"""Gradients of a network's logits by its inputs, evaluated in padded chunks as its answers are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.models.determinism import CHUNK, flush_denormals
from bench.models.networks import Network

Images = NDArray[np.float32]


@flush_denormals()
def logit_gradients(network: Network, x: Images, classes: NDArray[np.intp]) -> tuple[Images, Images]:
    """Return all logits, (n, all classes), and the gradients of some by the inputs, (n, k, …), both float32.

    ``x``: (n, …), as the network gets them; it is in evaluation mode. ``classes``: (n, k), whose logits are
    differentiated. Evaluated in padded chunks of 256 rows: whatever the other rows, a row's logits are the
    same to the bit, its gradients but for rounding.
    """
    count, chosen = classes.shape
    parts = []
    gradients = np.empty((count, chosen, *x.shape[1:]), np.float32)
    for start in range(0, max(count, 1), CHUNK):
        number = min(CHUNK, count - start)
        padded = np.zeros((CHUNK, *x.shape[1:]), np.float32)
        padded[:number] = x[start : start + number]
        wanted = np.zeros((CHUNK, chosen), np.int64)
        wanted[:number] = classes[start : start + number]
        inputs, which = torch.from_numpy(padded).requires_grad_(chosen > 0), torch.from_numpy(wanted)
        with torch.set_grad_enabled(chosen > 0):
            outputs = network(inputs)
        parts.append(outputs.detach().numpy()[:number])
        for place in range(chosen):
            total = outputs.gather(1, which[:, place : place + 1]).sum()
            (slope,) = torch.autograd.grad(total, inputs, retain_graph=place + 1 < chosen)
            gradients[start : start + number, place] = slope.numpy()[:number]
    return np.concatenate(parts), gradients
