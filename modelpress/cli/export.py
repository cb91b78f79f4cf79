"""`modelpress export`: the same as `modelpress.export`, for a module that an import path names."""

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelpress.cli.numbers import size
from modelpress.cli.output import JsonFlag, say, show_json, wants_json
from modelpress.exporter import export as write

if TYPE_CHECKING:
    from torch import Tensor, nn

_EXAMPLE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<sizes>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "bool")


def export(
    module: Annotated[str, typer.Argument(help="Where the network is, as package.module:name; a class is called.")],
    *,
    example: Annotated[
        list[str], typer.Option(help="Repeatable, one an input, batch first: 2x3x32x32, 2x16:int64, ids=2x16:int64.")
    ],
    to: Annotated[Path, typer.Option(help="The file to write: .pt2 or .onnx.")] = Path("model.pt2"),
    _json: JsonFlag = False,
) -> None:
    """Write your own PyTorch module as a file that the service takes, with a free batch, and compare the two."""
    model = _load(module)
    named = [_tensor(text) for text in example]
    if all(name is None for name, _ in named):
        captured = write(model, [tensor for _, tensor in named], to)
    elif any(name is None for name, _ in named):
        raise typer.BadParameter("give all inputs a name, or none", param_hint="--example")
    else:
        captured = write(model, {str(name): tensor for name, tensor in named}, to)
    if wants_json():
        found = {"batch": captured.batch, "max_abs_difference": captured.max_abs_difference}
        show_json({"path": str(captured.path), "bytes": captured.bytes, **found})
    say(f"{captured.path} is written: {size(captured.bytes)}, batch {captured.batch}", "green")
    if captured.batch_reason:
        say(f"  note: it takes one batch size only: {captured.batch_reason}", "yellow")
    say(f"  read again, it differs from the module by at most {captured.max_abs_difference:.3g}")
    say(f"  next: modelpress upload {captured.path}")


def _load(place: str) -> "nn.Module":
    """The module at an import path; code of the working folder can be imported, as `python -m` does."""
    from torch import nn  # noqa: PLC0415  torch takes seconds to load

    path, _, name = place.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise typer.BadParameter(f"{place} cannot be imported: {error}", param_hint="MODULE") from error
    model = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(model, nn.Module):
        raise typer.BadParameter(f"{place} is no torch.nn.Module", param_hint="MODULE")
    return model


def _tensor(text: str) -> "tuple[str | None, Tensor]":
    """Noise, or ones where the numbers are integers, which every table has."""
    import torch  # noqa: PLC0415  torch takes seconds to load

    found = _EXAMPLE.fullmatch(text)
    dtype = found["dtype"] or "float32" if found else ""
    if found is None or dtype not in _DTYPES:
        raise typer.BadParameter(f"{text} is not like 2x3x32x32 or ids=2x16:int64", param_hint="--example")
    sizes = [int(number) for number in found["sizes"].split("x")]
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(sizes, generator=generator) if kind.is_floating_point else torch.ones(sizes)
    return found["name"], values.to(kind)
