"""The parts of a `.pt2` file's JSON that are read (torch 2.13, schema 8); what is not listed is ignored."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

# An argument or specification is a union: an object with one key that says its kind.
Union = dict[str, JsonValue]


class Stored(BaseModel):
    """Base of what the file says: frozen, other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class TensorMeta(Stored):
    """Type and layout of a tensor; types are numbers of torch's `ScalarType`, layout 7 is strided."""

    dtype: int
    sizes: list[Union]
    strides: list[Union]
    storage_offset: Union
    layout: Literal[7]


class NamedArgument(Stored):
    """An argument by the name that the operator's schema has for it."""

    name: str
    arg: Union


class Node(Stored):
    """One call."""

    target: str
    inputs: list[NamedArgument]
    outputs: list[Union]
    name: str | None = None


class Graph(Stored):
    """Calls in order, and what each named tensor is."""

    nodes: list[Node]
    tensor_values: dict[str, TensorMeta]


class Signature(Stored):
    """What each input and output of the graph is."""

    input_specs: list[Union]
    output_specs: list[Union]


class GraphModule(Stored):
    """A graph with its signature."""

    graph: Graph
    signature: Signature


class RangeConstraint(Stored):
    """Least and largest value of a free size."""

    min_val: int | None
    max_val: int | None


class SchemaVersion(Stored):
    """Version of this format."""

    major: int
    minor: int


class ExportedProgram(Stored):
    """One exported network."""

    graph_module: GraphModule
    range_constraints: dict[str, RangeConstraint]
    schema_version: SchemaVersion
    torch_version: str = "torch"


class Payload(Stored):
    """Where the bytes of one weight are."""

    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class PayloadConfig(Stored):
    """All weights of a program by name."""

    config: dict[str, Payload]
