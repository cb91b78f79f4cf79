"""Uploads, models and data sets as users see them."""

from typing import Annotated, Literal

from pydantic import Field

from core.description import (
    DataFormat,
    DatasetSpec,
    FractionSplits,
    GivenSplits,
    LayerDescription,
    Parity,
    SplitDescription,
    TensorDescription,
    Twin,
)
from core.resources.shape import Failure, Metadata, Resource, Shown
from core.specs.base import Asked, Capability
from core.states import InspectionState


class Upload(Resource):
    """Bytes that were received and are kept under their SHA-256."""

    object: Literal["upload"] = "upload"
    filename: str
    sha256: str
    bytes: int


class ModelCreate(Asked):
    """What `POST /v1/models` takes: one file, or all files of a model that has several."""

    uploads: tuple[str, ...] = Field(min_length=1, max_length=64)
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class ModelFile(Shown):
    """One of the files that a model was uploaded as."""

    filename: str
    sha256: str
    bytes: int


class ModelSummary(Resource):
    """A model in a list."""

    object: Literal["model"] = "model"
    name: str
    metadata: Metadata
    state: InspectionState
    format: str | None
    sha256: str
    bytes: int
    parameters: int | None = None
    error: Failure | None = None


class Model(ModelSummary):
    """A model with what inspection found; the layer table is at `layers_url`."""

    mode: Literal["network", "onnx_only"] | None = None
    why: str | None = None
    why_node: str | None = None
    filename: str
    files: tuple[ModelFile, ...]
    content_url: str
    inputs: tuple[TensorDescription, ...] = ()
    outputs: tuple[TensorDescription, ...] = ()
    macs: int | None = None
    planned_activation_bytes: int | None = None
    planned_activation_node: str | None = None
    counted_at: dict[str, int] = Field(
        default_factory=dict, description="The number that stood for each free size while costs were counted."
    )
    bytes_stripped: int | None = None
    batch: str | None = None
    batch_reason: str | None = None
    operators: dict[str, int] = Field(default_factory=dict)
    parity: Parity | None = None
    layers_url: str
    warnings: tuple[str, ...] = ()
    capabilities: dict[str, Capability] = Field(default_factory=dict)


class ModelLayer(LayerDescription):
    """One layer with its shares, from 0 to 1, of the model's parameters and MACs and of all layers' activations."""

    share_of_parameters: float
    share_of_macs: float
    share_of_activations: float


class ModelLayers(Shown):
    """The layer table of a model; its rows and what no layer holds (products of attention …) sum to the model's."""

    data: tuple[ModelLayer, ...]
    other_parameters: int = 0
    other_macs: int = 0


class DatasetCreate(DatasetSpec):
    """What `POST /v1/datasets` takes: the files, and how they are to be read."""

    uploads: tuple[str, ...] = Field(min_length=1, max_length=16)
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class DatasetSummary(Resource):
    """A data set in a list."""

    object: Literal["dataset"] = "dataset"
    name: str
    metadata: Metadata
    state: InspectionState
    task: str
    sha256: str
    bytes: int
    error: Failure | None = None


class Dataset(DatasetSummary):
    """A data set with what inspection found."""

    filename: str
    spec: DatasetSpec
    format: DataFormat | None = None
    inputs: tuple[TensorDescription, ...] = ()
    splits: dict[str, SplitDescription] = Field(default_factory=dict)
    classes: int | None = None
    label_names: tuple[str, ...] = ()
    reading: GivenSplits | FractionSplits | None = Field(None, description="Which arrays were read, if found by name.")
    twins: tuple[Twin, ...] = Field((), description="The first samples of evaluation that are also in another split.")
    warnings: tuple[str, ...] = ()


class Rename(Asked):
    """What `PATCH` takes on every object that a user made."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    metadata: Metadata | None = None
