"""Where the latent weights beneath encoded ones start."""

import torch
from torch import Tensor

from core.network.encodings import Masked
from core.network.network import Network


def latent_weights(network: Network, original: Network | None) -> dict[str, Tensor]:
    """By path of an encoded parameter, the original's numbers where these round to what is stored, else what is stored.

    Weights that begin on their levels are all as far from the next ones, and those with like gradients change at once;
    the original's know which are near. What the network answers is the same, bit by bit.
    """
    if original is None:
        return {}
    theirs = dict(original.graph.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for path, encoding in network.encodings.items():
        if path not in theirs or theirs[path].shape != encoding.shape or "low_rank" in encoding.kinds:
            continue
        weight, stored = theirs[path].detach().float(), encoding.decode()
        same = encoding.project(weight) == stored
        found[path] = torch.where(same & encoding.mask if isinstance(encoding, Masked) else same, weight, stored)
    return found
