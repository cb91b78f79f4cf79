"""Losses between inner values of two networks: hints, attention transfer, relations; pure functions on tensors.

Values are (n, channels, …places), also those of transformers, whose tokens are places; or (n, channels).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Weights of the two parts (arXiv 1904.05068, section 4).
DISTANCES, ANGLES = 25.0, 50.0


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
    one, other = found.flatten(1), wanted.flatten(1)
    if one.shape[0] < 2:
        return found.sum() * 0
    loss = DISTANCES * F.smooth_l1_loss(_distances(one), _distances(other))
    if one.shape[0] > 2:
        loss = loss + ANGLES * F.smooth_l1_loss(_angles(one), _angles(other))
    return loss


def _distances(value: Tensor) -> Tensor:
    """Distances of all pairs, as multiples of their mean."""
    distances = F.pdist(value)
    return distances / distances.mean().clamp_min(torch.finfo(value.dtype).tiny)


def _angles(value: Tensor) -> Tensor:
    """Cosines of the angles i j k at j of all triples of different samples, (n · (n − 1) · (n − 2),)."""
    count = value.shape[0]
    directions = F.normalize(value[None] - value[:, None], dim=2)
    same = torch.eye(count, dtype=torch.bool, device=value.device)
    kept = ~(same[:, :, None] | same[:, None, :] | same[None])
    return torch.bmm(directions, directions.transpose(1, 2))[kept]
