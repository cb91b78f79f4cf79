"""What inspection wrote down about a model or a data set: plain data, no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

INSPECTOR_VERSION = 1


class Described(BaseModel):
    """Base of what is stored as JSON and read back: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorDescription(Described):
    """One input or output; a size that is free is named, such as `batch`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class LayerDescription(Described):
    """One weight-bearing layer of the canonical network; costs are for one sample."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    output_shape: tuple[int | str, ...]
    parameters: int
    macs: int
    activation_bytes: int
    groups: int = 1
    tied_to: str | None = None


class Parity(Described):
    """How far the canonical network is from the uploaded file, over random and edge inputs."""

    max_abs_difference: float
    max_abs_output: float
    samples: int
    reference: str


class ModelDescription(Described):
    """All that is known of an uploaded model without loading it again."""

    inspector_version: int = INSPECTOR_VERSION
    format: Literal["onnx", "pt2", "hf"]
    mode: Literal["network", "onnx_only"] = "network"
    opset: int | None = None
    producer: str | None = None
    dtype: str = "float32"
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    batch: Literal["dynamic", "freed", "fixed"] = "dynamic"
    batch_reason: str | None = None
    parameters: int
    macs: int
    planned_activation_bytes: int
    bytes_stripped: int
    layers: tuple[LayerDescription, ...]
    operators: dict[str, int]
    parity: Parity
    metadata: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class InputMapping(Described):
    """How the arrays of a data set become one input of the network: x·scale, then (x − mean)/std."""

    layout: Literal["NCHW", "NHWC", "NHW", "NC", "NT", "as_is"] = "as_is"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class SplitArrays(Described):
    """The names of the arrays of one given split."""

    x: str
    y: str | None = None


class FractionSplits(Described):
    """One pair of arrays, split by seeded fractions."""

    x: str
    y: str | None = None
    fractions: dict[Literal["train", "validation", "evaluation"], float]
    seed: int = 0


SplitName = Literal["train", "calibration", "validation", "evaluation"]


class DatasetSpec(Described):
    """How the uploaded arrays are to be read."""

    task: Literal["classification", "language_modelling", "regression", "none"]
    inputs: dict[str, InputMapping] = Field(default_factory=dict)
    splits: dict[SplitName, SplitArrays] | FractionSplits


class SplitDescription(Described):
    """How many samples a split has, and whether they carry labels."""

    samples: int
    labelled: bool


class DatasetDescription(Described):
    """What a data set turned out to hold."""

    inspector_version: int = INSPECTOR_VERSION
    format: Literal["npz"]
    task: str
    inputs: tuple[TensorDescription, ...]
    splits: dict[SplitName, SplitDescription]
    classes: int | None = None
    warnings: tuple[str, ...] = ()
