"""Encoded weights while they are trained: parameters beneath, a dense weight on the grid above."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from core.network.encodings.encoding import Encoding


class TrainableWeight(nn.Module, ABC):
    """Stands for one encoded parameter in training; its own parameters are what the optimiser moves."""

    @abstractmethod
    def forward(self) -> Tensor:
        """The dense fp32 weight on the grid, with gradients to the parameters beneath."""

    @abstractmethod
    def encode(self) -> Encoding:
        """The encoding as it is now; its `decode()` equals `forward()` bit by bit."""
