"""How `modelpress upload --dataset` says what the arrays of a file mean."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError

from core.description import DatasetSpec

Shape = TypeVar("Shape", bound=BaseModel)


def dataset_spec(*, task: str, inputs: Sequence[str], splits: Sequence[str]) -> DatasetSpec:
    """The spec that the options say; without `--split` the service finds the splits by the names in the files."""
    body: dict[str, Any] = {"task": task, "inputs": dict(_read_input(text) for text in inputs)}
    if splits:
        body["splits"] = dict(_read_split(text) for text in splits)
    return checked(DatasetSpec, body, "the options")


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping from a YAML or JSON file."""
    try:
        body = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} is no YAML: {error}") from error
    if not isinstance(body, dict):
        raise typer.BadParameter(f"{file} must hold a mapping.")
    return body


def checked(shape: type[Shape], body: dict[str, Any], source: str) -> Shape:
    """`body` as `shape`, or a usage error that names the field."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        sentences = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise typer.BadParameter(f"In {source}: {'; '.join(sentences)}") from error


def _read_input(text: str) -> tuple[str, dict[str, object]]:
    """Read `x layout=NHW scale=1/255 mean=0.5 std=0.5`."""
    name, *settings = text.split()
    mapping: dict[str, object] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in {"mean", "std", "size"}:
            mapping[key] = [_number(part) for part in value.split(",")]
        else:
            mapping[key] = _number(value) if key == "scale" else value
    return name, mapping


def _read_split(text: str) -> tuple[str, dict[str, str]]:
    """Read `evaluation=SAMPLES,LABELS`, and for pairs `evaluation=ONE,SCORES,OTHER`; labels may be left empty."""
    name, _, arrays = text.partition("=")
    return name, {key: array for key, array in zip(("x", "y", "pair"), arrays.split(","), strict=False) if array}


def _number(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is no number; write 0.5 or 1/255.") from error
