"""Other models that a recipe names, such as teachers, as networks that can stand in for the job's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from core.description import ModelDescription, TensorDescription
from core.errors import ModelpressError
from core.messages import RunJob
from core.network.fold import fold_batch_norm
from core.network.inspect import inspect, read
from core.network.network import Network
from core.network.upload import staged_by_name
from core.specs.interfaces import difference


@dataclass(frozen=True)
class OtherModels:
    """Networks and descriptions by the ids of the models."""

    networks: Mapping[str, Network] = field(default_factory=lambda: MappingProxyType({}))
    descriptions: Mapping[str, ModelDescription] = field(default_factory=lambda: MappingProxyType({}))


def read_others(request: RunJob, description: ModelDescription, network: Network) -> OtherModels:
    """Read every other model of a job; raises `method_not_applicable` where one takes or gives something else.

    Inputs and outputs are told apart by their order, and get the names that the job's own model has.
    """
    networks, descriptions = {}, {}
    for identifier, staged in request.models.items():
        files = staged_by_name(staged)
        descriptions[identifier] = inspect(files, request.seed)
        if (why := difference(description, descriptions[identifier], f"The model {identifier}")) is not None:
            raise ModelpressError("method_not_applicable", why)
        found = fold_batch_norm(read(files, request.seed))
        networks[identifier] = replace(
            found,
            inputs=_renamed(found.inputs, network.inputs),
            outputs=_renamed(found.outputs, network.outputs),
            dtype=network.dtype,
        )
    return OtherModels(networks, descriptions)


def _renamed(
    tensors: tuple[TensorDescription, ...], like: tuple[TensorDescription, ...]
) -> tuple[TensorDescription, ...]:
    return tuple(tensor.model_copy(update={"name": other.name}) for tensor, other in zip(tensors, like, strict=True))
