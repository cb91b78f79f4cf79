"""Light random changes of images, the same for the same seed and update."""

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.dataset import Dataset
from core.specs.train import Augmentation

# A shift is at most this share of a side (4 of 32 pixels are usual: He et al. 2016, arXiv 1512.03385, section 4.2).
SHIFT_SHARE = 8
SIDES = 4
SMALLEST_SIDE = 8


@final
class Augmenter:
    """Moves and mirrors images (n, channels, height, width); other inputs stay as they are."""

    def __init__(self, kind: Augmentation, images: tuple[str, ...], seed: int) -> None:
        """`images` names the inputs that are images."""
        self._shifts = kind != "none" and bool(images)
        self._flips = kind == "shift_flip"
        self._images = images
        self._seed = seed

    def __bool__(self) -> bool:
        return self._shifts

    def apply(self, inputs: Mapping[str, Tensor], update: int) -> dict[str, Tensor]:
        """The inputs of one update, each sample changed by chance; all images of a sample alike."""
        changed = dict(inputs)
        if not self._shifts:
            return changed
        rng = np.random.default_rng((self._seed, update))
        count = len(changed[self._images[0]])
        places, flips = rng.random((count, 2)), rng.random(count) < (0.5 if self._flips else 0.0)
        for name in self._images:
            changed[name] = _shift(changed[name], places)
            if self._flips:
                mirrored = torch.from_numpy(flips).reshape(-1, 1, 1, 1)
                changed[name] = torch.where(mirrored, changed[name].flip(-1), changed[name])
        return changed


def image_inputs(dataset: Dataset) -> tuple[str, ...]:
    """The inputs that are images: numbers with channels, height and width, as the mapping lays them out."""
    found = []
    for tensor in dataset.inputs:
        sizes = tensor.shape[1:]
        large = all(isinstance(size, int) and size >= SMALLEST_SIDE for size in sizes[1:])
        if tensor.dtype.startswith("float") and len(tensor.shape) == SIDES and large:
            found.append(tensor.name)
    return tuple(found)


def _shift(images: Tensor, places: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Tensor:
    """Each image moved by up to an eighth of its sides; `places` (n, 2) in [0, 1). Edges are repeated outwards.

    Repeated edges keep the background whatever value the data set's scaling gave it.
    """
    height, width = images.shape[-2:]
    up, left = height // SHIFT_SHARE, width // SHIFT_SHARE
    padded = F.pad(images, (left, left, up, up), mode="replicate")
    rows = torch.from_numpy((places[:, 0] * (2 * up + 1)).astype(np.int64))
    columns = torch.from_numpy((places[:, 1] * (2 * left + 1)).astype(np.int64))
    samples = torch.arange(len(images)).reshape(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1]).reshape(1, -1, 1, 1)
    y = (rows.reshape(-1, 1) + torch.arange(height)).reshape(-1, 1, height, 1)
    x = (columns.reshape(-1, 1) + torch.arange(width)).reshape(-1, 1, 1, width)
    return padded[samples, channels, y, x]
