"""How weights are stored: what methods leave behind and exporters ask."""

from core.network.encodings.activation import ActivationGrid, DynamicGrid
from core.network.encodings.affine_integer import AffineInteger
from core.network.encodings.blocks import SMALLEST_SCALE, Blocks, largest_group
from core.network.encodings.codebook import Codebook
from core.network.encodings.dense import Dense
from core.network.encodings.elementwise import Elementwise
from core.network.encodings.emission import Emission, Written
from core.network.encodings.encoding import Encoding
from core.network.encodings.grids import Grid, packed_grid, symmetric_grid
from core.network.encodings.half import Half
from core.network.encodings.levels import Levels
from core.network.encodings.low_rank import LowRank
from core.network.encodings.masked import Masked
from core.network.encodings.restore import restore
from core.network.encodings.stack import put_on
from core.network.encodings.trainable import TrainableWeight

__all__ = [
    "SMALLEST_SCALE",
    "ActivationGrid",
    "AffineInteger",
    "Blocks",
    "Codebook",
    "Dense",
    "DynamicGrid",
    "Elementwise",
    "Emission",
    "Encoding",
    "Grid",
    "Half",
    "Levels",
    "LowRank",
    "Masked",
    "TrainableWeight",
    "Written",
    "largest_group",
    "packed_grid",
    "put_on",
    "restore",
    "symmetric_grid",
]
