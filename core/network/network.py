"""The canonical network: what readers make, methods change and exporters write."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import fx

from core.description import TensorDescription

if TYPE_CHECKING:
    from core.network.encodings import Encoding


@dataclass
class Network:
    """A neural network in memory: an `fx.GraphModule` of `nn` layers in fp32 and eval mode, and how weights are stored.

    `graph` takes its inputs in the order of `inputs` and gives one tensor or a tuple in the order of `outputs`.
    `encodings` maps the path of a parameter (`conv1.weight`) to its encoding; a parameter without one is dense.
    `sizes` gives, by name, a usual number for each size of the inputs that is free besides the batch.
    `dtype` is that of the upload; export restores it. `batch` is "dynamic", "freed" or "fixed", with the reason.
    """

    graph: fx.GraphModule
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    encodings: "dict[str, Encoding]" = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    batch: str = "dynamic"
    batch_reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
