"""What inspection wrote down about a model or a data set: plain data, no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

INSPECTOR_VERSION = 4
# What the size of an input or output that counts samples is called.
BATCH = "batch"

PixelCount = Annotated[int, Field(ge=1, le=8192)]


class Described(BaseModel):
    """Base of what is stored as JSON and read back: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorDescription(Described):
    """One input or output; a size that is free is named, such as `batch`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def batch_axis(self) -> int:
        """The axis that counts samples: the one named `batch`, the first where a number stands for it."""
        return self.shape.index(BATCH) if BATCH in self.shape else 0

    @property
    def sample_shape(self) -> tuple[int | str, ...]:
        """The shape of one sample."""
        return (*self.shape[: self.batch_axis], *self.shape[self.batch_axis + 1 :])


class LayerDescription(Described):
    """One weight-bearing layer of the canonical network; costs are for one sample.

    A size that grows with a free one is written by its name, such as `batch` or `49·batch`. Parameters that an earlier
    layer holds are not counted again.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int | str, ...] = ()
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
    """All that is known of an uploaded model without loading it again.

    `planned_activation_bytes` is the most bytes of tensors, weights apart, that live at once while the network's own
    graph runs, for one sample; `planned_activation_node` is where. A runtime that fuses nodes plans otherwise.
    `why` says what keeps a model in mode `onnx_only`, `why_node` at which node first; such a model has no parity.
    `counted_at` has the number that stood for each free size while costs were counted.
    """

    inspector_version: int = INSPECTOR_VERSION
    format: Literal["onnx", "pt2", "hf"]
    mode: Literal["network", "onnx_only"] = "network"
    why: str | None = None
    why_node: str | None = None
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
    planned_activation_node: str | None = None
    counted_at: dict[str, int] = Field(default_factory=dict)
    bytes_stripped: int
    layers: tuple[LayerDescription, ...]
    operators: dict[str, int]
    parity: Parity | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def can_be_drawn(self) -> bool:
        """Whether samples can be drawn one by one: every input counts them, all alike, and the first by rows."""
        counts = {tensor.shape[tensor.batch_axis] if tensor.shape else None for tensor in self.inputs}
        return len(counts) == 1 and None not in counts and self.has_rows()

    def has_rows(self) -> bool:
        """Whether the first input and the first output, which quality is measured on, have a row for each sample."""
        return all(tensor.batch_axis == 0 for tensor in (*self.inputs[:1], *self.outputs[:1]))


class InputMapping(Described):
    """How the arrays of a data set become one input of the network: x·scale, then (x − mean)/std, then `per_sample`.

    Images are read as bytes in NHWC, resized, and become NCHW; texts become `length` token ids, padded or cut.
    """

    layout: Literal["NCHW", "NHWC", "NHW", "NC", "NT", "as_is"] = "as_is"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_sample: bool = Field(False, description="Whether each sample is brought to mean 0, deviation 1: waveforms.")
    size: tuple[PixelCount, PixelCount] | None = Field(None, description="Height and width that images are brought to.")
    resize: PixelCount | None = Field(
        None, description="Shorter side that images are brought to before their middle is cut out as `size`."
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field("bilinear", description="How images are resized.")
    colour: Literal["rgb", "grey"] | None = Field(None, description="Colours of images; left out: as the first has.")
    length: int | None = Field(None, ge=1, le=65_536, description="Tokens of a text, where the model leaves it free.")
    part: Literal["ids", "mask", "types", "positions"] | None = Field(
        None, description="What of a text this input takes; left out: by the name of the input."
    )


# Several names are columns of numbers that make one array, one column beside the other.
ColumnNames = str | Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)]
ArrayNames = ColumnNames | dict[str, ColumnNames]


class SplitArrays(Described):
    """The names of the arrays or columns of one given split; `x` by input where the network has several.

    A list of names stands for one array of these columns of numbers.

    `pair` is the other side of each pair, for the task `embedding`.
    """

    x: ArrayNames
    y: str | None = None
    pair: ArrayNames | None = None


class FractionSplits(SplitArrays):
    """Arrays that are split by seeded fractions, of rows in a drawn order or by the hash of each sample's content.

    By content, equal samples fall into the same split, and adding samples moves no other.
    """

    fractions: dict[Literal["train", "validation", "evaluation"], float]
    seed: int = 0
    by: Literal["row", "content"] = "row"


SplitName = Literal["train", "calibration", "validation", "evaluation"]
GivenSplits = dict[SplitName, SplitArrays]
Task = Literal[
    "classification", "multi_label", "regression", "token_classification", "language_modelling", "embedding", "none"
]


class DatasetSpec(Described):
    """How the uploaded files are to be read; splits that are left out are found by the names in the files."""

    task: Task
    inputs: dict[str, InputMapping] = Field(default_factory=dict)
    splits: GivenSplits | FractionSplits | None = None
    label_names: tuple[str, ...] = Field((), max_length=100_000, description="Names of the classes, in order.")


class SplitDescription(Described):
    """How many samples a split has, whether they carry labels, and how many each class has, in the classes' order.

    `per_class` is empty for other tasks and for more than a thousand classes.
    """

    samples: int
    labelled: bool
    per_class: tuple[int, ...] = ()


class Twin(Described):
    """A sample of evaluation and one of another split that is the same, or nearly; rows count from 0 in each array.

    Of a text to predict, rows are the first tokens of passages of 32 that are the same.
    """

    row: int
    split: SplitName
    other_row: int
    exact: bool = True


DataFormat = Literal["npz", "safetensors", "images", "parquet", "csv", "jsonl", "text"]


class DatasetDescription(Described):
    """What a data set turned out to hold; `reading` says which arrays each split was read from."""

    inspector_version: int = INSPECTOR_VERSION
    format: DataFormat
    task: str
    inputs: tuple[TensorDescription, ...]
    splits: dict[SplitName, SplitDescription]
    classes: int | None = None
    label_names: tuple[str, ...] = ()
    reading: GivenSplits | FractionSplits | None = None
    twins: tuple[Twin, ...] = ()
    warnings: tuple[str, ...] = ()
