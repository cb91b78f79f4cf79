"""How weights are stored: what methods leave behind and exporters ask."""

from core.network.encodings.activation import ActivationGrid
from core.network.encodings.affine_integer import AffineInteger, Grid, symmetric_grid
from core.network.encodings.dense import Dense
from core.network.encodings.encoding import Emission, Encoding

__all__ = ["ActivationGrid", "AffineInteger", "Dense", "Emission", "Encoding", "Grid", "symmetric_grid"]
