"""The networks of all structures, each read and analysed once."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from core.description import ModelDescription
from core.network.describe import describe
from core.network.network import Network
from core.network.surgery import Channels
from tests.core.network.surgery.structures import STRUCTURES, Made, network_of


@dataclass(frozen=True)
class Known:
    """A network, the inputs that it was traced with, and its groups; whoever changes weights makes a copy."""

    network: Network
    inputs: tuple[Tensor, ...]
    channels: Channels

    @functools.cached_property
    def description(self) -> ModelDescription:
        """What specs are asked about: as inspection describes a file, without the file."""
        found = describe(self.network)
        return ModelDescription(
            format="pt2",
            inputs=self.network.inputs,
            outputs=self.network.outputs,
            parameters=found.parameters,
            macs=found.macs,
            planned_activation_bytes=found.planned_activation_bytes,
            bytes_stripped=4 * found.parameters,
            layers=found.layers,
            operators=found.operators,
        )


@functools.cache
def known(name: str) -> Known:
    torch.manual_seed(0)
    made = _make(name)
    network = network_of(made)
    return Known(network, made[1], Channels(network))


def _make(name: str) -> Made:
    if name in STRUCTURES:
        return STRUCTURES[name]()
    # The library of the families takes seconds to import.
    from tests.core.network.surgery.hf_structures import FAMILIES

    return FAMILIES[name]()
