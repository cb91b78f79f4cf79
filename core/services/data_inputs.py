"""What speaks against feeding the samples of a data set to a model, known from both descriptions."""

from collections.abc import Iterator

from core.description import DatasetDescription, ModelDescription, TensorDescription
from core.resources.job import Objection


def object_to_inputs(model: ModelDescription, data: DatasetDescription) -> Iterator[Objection]:
    """Inputs that the data set does not give, or gives in another shape or type; all block."""
    if data.task == "language_modelling" or not data.inputs or _is_text(data.inputs[0]):
        # Text is cut into windows of the model's context, or becomes the tokens that its inputs take.
        return
    if not model.has_rows():
        text = (
            "The model's first input or output has its samples on another axis than the first; no data are fed to it."
        )
        hint = " Export it with `batch_first=True`."
        yield Objection(pointer="/dataset", severity="blocks", code="invalid_data", text=text + hint)
        return
    by_name = {tensor.name: tensor for tensor in data.inputs}
    if len(model.inputs) == 1:
        by_name = {model.inputs[0].name: data.inputs[0]}
    if missing := [tensor.name for tensor in model.inputs if tensor.name not in by_name]:
        names = ", ".join(tensor.name for tensor in model.inputs)
        text = f"The model has the inputs {names}; the data set does not give {', '.join(missing)}."
        yield Objection(pointer="/dataset", severity="blocks", code="invalid_data", text=text)
        return
    if model.format == "hf" and data.format in ("images", "parquet"):
        # The preprocessor that came with the model brings images to its size.
        by_name = {name: tensor for name, tensor in by_name.items() if len(tensor.shape) != 4}
    for wanted in model.inputs:
        if wanted.name in by_name:
            yield from _object_to_input(wanted, by_name[wanted.name])


def _is_text(tensor: TensorDescription) -> bool:
    return tensor.dtype == "text" or tensor.shape[-1:] == ("tokens",)


def _object_to_input(wanted: TensorDescription, given: TensorDescription) -> Iterator[Objection]:
    if not _fits(given, wanted):
        text = (
            f"A sample of the data set has shape {_shape(given)}; the model's input {wanted.name} takes "
            f"{_shape(wanted)}.{_layout_hint(given, wanted)}"
        )
        yield Objection(pointer="/dataset", severity="blocks", code="invalid_data", text=text)
    elif wanted.dtype.startswith("int") and given.dtype.startswith("float"):
        text = f"The model's input {wanted.name} is {wanted.dtype}; the data set gives {given.dtype}."
        yield Objection(pointer="/dataset", severity="blocks", code="invalid_data", text=text)


def _fits(given: TensorDescription, wanted: TensorDescription) -> bool:
    """Whether the sizes after the batch agree; a size that is named is free."""
    sizes = list(zip(given.shape[1:], wanted.sample_shape, strict=False))
    same = all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in sizes)
    return len(given.shape) == len(wanted.shape) and same


def _layout_hint(given: TensorDescription, wanted: TensorDescription) -> str:
    sample, target = given.shape[1:], wanted.sample_shape
    if len(sample) == 3 and (sample[2], sample[0], sample[1]) == target:
        return " Make the data set again with layout NHWC."
    if len(sample) == 2 and (1, *sample) == target:
        return " Make the data set again with layout NHW."
    return ""


def _shape(tensor: TensorDescription) -> str:
    return "×".join(str(size) for size in tensor.sample_shape) or "scalar"
