"""How weights are stored: what methods leave behind and exporters ask."""

from core.network.encodings.activation import ActivationGrid
from core.network.encodings.affine_integer import AffineInteger, Grid, symmetric_grid
from core.network.encodings.dense import Dense
from core.network.encodings.emission import Emission
from core.network.encodings.encoding import Encoding
from core.network.encodings.restore import restore
from core.network.encodings.trainable import TrainableWeight

__all__ = [
    "ActivationGrid",
    "AffineInteger",
    "Dense",
    "Emission",
    "Encoding",
    "Grid",
    "TrainableWeight",
    "restore",
    "symmetric_grid",
]
