"""Losses between inner values of two networks: hints, attention transfer, relations; pure functions on tensors.

Values are (n, channels, …places), also those of transformers, whose tokens are places; or (n, channels).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Weights of the two parts (arXiv 1904.05068, section 4).
DISTANCES, ANGLES = 25.0, 50.0
# A squared distance that is none; its reciprocal is still a number.
SMALLEST = 1e-30


def hint(found: Tensor, wanted: Tensor) -> Tensor:
    """½ · mean of squared differences of equal shapes (Romero et al. 2015, FitNets, arXiv 1412.6550, equation 3).

    The paper sums over a sample's values; the mean keeps the weight of the loss the same for layers of all sizes.
    """
    return 0.5 * F.mse_loss(found, wanted)


def attention(found: Tensor, wanted: Tensor) -> Tensor:
    """‖Q_s/‖Q_s‖ − Q_t/‖Q_t‖‖², mean over samples (Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2).

    Q is a map (n, places): Σ over channels of squared values, so the channels of the two need not agree.
    """
    difference = F.normalize(attention_map(found), dim=1) - F.normalize(attention_map(wanted), dim=1)
    return difference.square().sum(1).mean()


def attention_map(value: Tensor) -> Tensor:
    """Σ over channels of squared values (n, channels, …places), as (n, places)."""
    return value.square().sum(1).flatten(1)


def relations(found: Tensor, wanted: Tensor) -> Tensor:
    """25 · distances + 50 · angles between the samples of a batch (Park et al. 2019, arXiv 1904.05068, eqs. 4 to 8).

    Values are flattened to (n, …) each, so no two shapes need agree. A batch of one has no relations: 0; one of two
    has no angle.
    """
    one, other = _products(found.flatten(1)), _products(wanted.flatten(1))
    if len(one) < 2:
        return found.sum() * 0
    loss = DISTANCES * F.smooth_l1_loss(_relative(_distances(one)), _relative(_distances(other)))
    if len(one) > 2:
        triples = len(one) * (len(one) - 1) * (len(one) - 2)
        loss = loss + ANGLES * F.smooth_l1_loss(_angles(one), _angles(other), reduction="sum") / triples
    return loss.to(found.dtype)


def _products(value: Tensor) -> Tensor:
    """Inner products of all pairs of rows, from their middle, (n, n).

    Distances and angles follow from them, so that wide values cost one product of matrices and not one a triple. In
    doubles, since close samples are differences of large numbers.
    """
    centred = value.double() - value.double().mean(0)
    return centred @ centred.t()


def _distances(products: Tensor) -> Tensor:
    """Distances of all pairs, (n, n); equal samples have a small one without a gradient, since zero has none."""
    squares = products.diagonal()[:, None] + products.diagonal() - 2 * products
    floor = torch.finfo(squares.dtype).eps * products.diagonal().detach().mean()
    return squares.clamp_min(floor.clamp_min(SMALLEST)).sqrt()


def _relative(distances: Tensor) -> Tensor:
    """Those of different samples, each pair once, as multiples of their mean."""
    first, second = torch.triu_indices(len(distances), len(distances), offset=1)
    pairs = distances[first, second]
    return pairs / pairs.mean()


def _angles(products: Tensor) -> Tensor:
    """Cosines of the angles i j k at j, by j, i, k; 0 where two of the samples are the same."""
    lengths = _distances(products).float()
    # (xi − xj) · (xk − xj): after the differences, single precision is enough.
    aside = products.diagonal()[:, None] - products
    scalar = (products[None] - products[:, :, None] + aside[:, None]).float()
    same = torch.eye(len(products), dtype=torch.bool, device=products.device)
    same = same[:, :, None] | same[:, None, :] | same[None]
    return (scalar / (lengths[:, :, None] * lengths[:, None])).masked_fill(same, 0.0)
