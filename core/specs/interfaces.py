"""Whether two models can stand in for each other: the same inputs, and outputs of the same shapes."""

from core.description import ModelDescription, TensorDescription


def difference(wanted: ModelDescription, found: ModelDescription, who: str) -> str | None:
    """Why `found`, told as `who`, cannot be used in the place of `wanted`, with both shapes; None where it can."""
    if found.mode == "onnx_only":
        return f"{who} could not be read as a network: {found.why}"
    for kind, ours, theirs in (("inputs", wanted.inputs, found.inputs), ("outputs", wanted.outputs, found.outputs)):
        same = len(ours) == len(theirs) and all(_alike(*pair, kind) for pair in zip(ours, theirs, strict=True))
        if not same:
            return f"{who} has the {kind} {_tell(theirs)}; the model of the job has {_tell(ours)}."
    if found.batch == "fixed" and not (wanted.batch == "fixed" and _first(wanted) == _first(found)):
        return f"{who} runs at batch {_first(found)} only, and the model of the job at others."
    return None


def _alike(one: TensorDescription, other: TensorDescription, kind: str) -> bool:
    """Equal sizes after the batch, where a size that is named is free; inputs must have one dtype as well."""
    sizes = zip(one.shape[1:], other.shape[1:], strict=False)
    free = all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in sizes)
    return len(one.shape) == len(other.shape) and free and (kind == "outputs" or _family(one) == _family(other))


def _family(tensor: TensorDescription) -> str:
    # A network computes in float32 whatever its file holds.
    return "float" if "float" in tensor.dtype else tensor.dtype


def _tell(tensors: tuple[TensorDescription, ...]) -> str:
    return ", ".join(f"{each.name} {each.dtype} {'×'.join(map(str, each.shape))}" for each in tensors)


def _first(description: ModelDescription) -> int | str | None:
    shape = description.inputs[0].shape if description.inputs else ()
    return shape[0] if shape else None
