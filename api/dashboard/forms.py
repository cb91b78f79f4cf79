"""Forms made from a JSON Schema, and JSON read back from what a form sent."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

from pydantic import ValidationError

from api.dashboard.formats import grouped, significant
from api.errors import explain
from core.errors import ModelpressError

FieldKind = Literal["fixed", "choice", "flag", "integer", "number", "text", "list"]
Schema = Mapping[str, Any]
Texts = Mapping[str, str]

_MARKS = (("minimum", "at least"), ("exclusiveMinimum", "more than"))
# What an object that may be none is while its own controls count.
_GIVEN = "given"
_CEILINGS = (("maximum", "at most"), ("exclusiveMaximum", "less than"))


@dataclass(frozen=True, slots=True)
class FormField:
    """One control. `name` is the dotted path into the request, such as `recipe.steps.0.calibration.samples`."""

    name: str
    label: str
    group: str
    kind: FieldKind
    hint: str
    value: str
    choices: tuple[str, ...] = ()
    error: str | None = None

    @property
    def identifier(self) -> str:
        """The id of the control; an objection's link leads there."""
        return "f-" + self.name.replace(".", "-")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One property of a schema that a single control can hold."""

    path: tuple[str, ...]
    schema: Schema
    group: str
    default: object


def fields(schema: Schema, prefix: str, *, texts: Texts, errors: Mapping[str, str]) -> tuple[FormField, ...]:
    """The controls of a schema: what was typed, else the defaults; nested objects become groups."""
    return tuple(_field(leaf, prefix, texts, errors) for leaf in leaves(schema))


def read(schema: Schema, prefix: str, texts: Texts) -> dict[str, Any]:
    """The JSON object that a form holds; empty controls are left out, so that the defaults apply.

    One that was emptied is none where that is a choice and not the default; then nothing in it counts.
    """
    result: dict[str, Any] = {}
    none: set[tuple[str, ...]] = set()
    for leaf in leaves(schema):
        name = _name(prefix, leaf.path)
        text = texts.get(name, "").strip()
        kind = _kind(leaf.schema)
        if kind == "fixed" or any(leaf.path[: len(path)] == path for path in none):
            continue
        if not text and name in texts and leaf.schema.get("optional") and leaf.default is not None:
            none.add(leaf.path)
            _put(result, leaf.path, None)
        elif text and not (leaf.schema.get("given") and text == _GIVEN):
            _put(result, leaf.path, _parse(text, kind, leaf.schema))
    return result


def _put(result: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    target = result
    for key in path[:-1]:
        if not isinstance(target.setdefault(key, {}), dict):
            # A text as well: the schema says that both are one too many.
            target[key] = {"text": target[key]}
        target = target[key]
    target[path[-1]] = value


def open_names(schema: Schema, prefix: str) -> frozenset[str]:
    """The names of the controls that hold an object of any keys, as JSON."""
    return frozenset(_name(prefix, leaf.path) for leaf in leaves(schema) if leaf.schema.get("type") == "object")


def texts_of(value: object, prefix: str = "", *, whole: frozenset[str] = frozenset()) -> dict[str, str]:
    """A JSON object as the texts of a form: the inverse of `read`. What `whole` names becomes one text."""
    if isinstance(value, Mapping) and prefix not in whole:
        entries: Iterator[tuple[str, object]] = iter(value.items())
    elif (
        isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(item, Mapping) for item in value)
    ):
        entries = ((str(index), item) for index, item in enumerate(value))
    else:
        return {prefix: "" if value is None else _text(value)}
    texts: dict[str, str] = {}
    for key, item in entries:
        texts |= texts_of(item, f"{prefix}.{key}" if prefix else key, whole=whole)
    return texts


def groups(fields: Sequence[FormField]) -> list[tuple[str, list[FormField]]]:
    """Fields under headings, those without a heading last; a group of one field gives it its name instead.

    A field that is called as its heading is what the group stands for: a name in the place of all of it, or whether
    there is any of it.
    """
    found: dict[str, list[FormField]] = {}
    for field in fields:
        found.setdefault(field.group, []).append(field)
    plain = [
        replace(field, label=f"{_title(group)} {field.label.lower()}") if group else field
        for group, members in found.items()
        if not group or len(members) == 1
        for field in members
    ]
    headed = [
        (_title(group), [_within(_title(group), field) for field in members])
        for group, members in found.items()
        if group and len(members) > 1
    ]
    return [*headed, ("", plain)] if plain else headed


def _within(heading: str, field: FormField) -> FormField:
    """A field under a heading, which it does not repeat."""
    if field.label != heading:
        return field
    return replace(field, label="Given or not" if field.choices else "Id")


def refusal(error: ValidationError, body: object) -> ModelpressError:
    """The complaints of a schema about what a form stands for, as the API would word them."""
    return explain([{**each, "loc": ("body", *each["loc"])} for each in error.errors()], body)


def leaves(schema: Schema) -> tuple[Leaf, ...]:
    """The properties of a schema, nested objects flattened, in the order in which they were written."""
    return tuple(_walk(schema, schema.get("$defs", {}), (), "", {}))


def _walk(
    schema: Schema, definitions: Schema, path: tuple[str, ...], group: str, defaults: Mapping[str, object]
) -> Iterator[Leaf]:
    for key, written in schema.get("properties", {}).items():
        inner = _resolve(written, definitions)
        default = defaults.get(key, written.get("default"))
        if chosen := _object_beside_others(written, definitions):
            # A text for the other choices, and controls for the object's own; without defaults, so that all can stay
            # empty.
            yield Leaf((*path, key), {**written, "type": "string", "optional": True}, key, default)
            yield from _walk(chosen, definitions, (*path, key), key, dict.fromkeys(chosen["properties"]))
        elif "properties" in inner:
            # What is nothing by itself has no defaults either, so that all can stay empty.
            none: Mapping[str, object] = dict.fromkeys(inner["properties"]) if inner.get("optional") else {}
            nested = default if isinstance(default, Mapping) else none
            if inner.get("optional") and nested:
                said = {"enum": [_GIVEN, ""], "description": inner.get("description", ""), "optional": True}
                yield Leaf((*path, key), {**said, "given": True}, key, _GIVEN)
            yield from _walk(inner, definitions, (*path, key), key, nested)
        else:
            yield Leaf((*path, key), inner, group, default)


def _resolve(schema: Schema, definitions: Schema) -> Schema:
    """The schema behind a reference or an optional value, with the outer description."""
    if "$ref" in schema:
        return {**definitions[schema["$ref"].rsplit("/", 1)[1]], **schema}
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return {**_resolve(options[0], definitions), **schema, "optional": True}
    # One of several objects is written as JSON.
    return {**schema, "type": "object"} if "oneOf" in schema else schema


def _object_beside_others(schema: Schema, definitions: Schema) -> Schema | None:
    """The object among several choices that are not null; None where there is none or nothing else."""
    options = [_resolve(each, definitions) for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    objects = [option for option in options if "properties" in option]
    return objects[0] if objects and len(options) > 1 else None


def _field(leaf: Leaf, prefix: str, texts: Texts, errors: Mapping[str, str]) -> FormField:
    name = _name(prefix, leaf.path)
    kind = _kind(leaf.schema)
    default = "" if leaf.default is None else _text(leaf.default)
    choices = tuple(str(choice) for choice in leaf.schema.get("enum", ()))
    if kind == "choice" and not default and "" not in choices:
        # Nothing is chosen until somebody does.
        choices = ("", *choices)
    return FormField(
        name=name,
        label=_title(leaf.path[-1]),
        group=leaf.group,
        kind=kind,
        hint=_hint(leaf.schema),
        value=texts.get(name, default) if kind != "fixed" else _text(leaf.schema["const"]),
        choices=choices,
        error=errors.get(name),
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _kind(schema: Schema) -> FieldKind:
    if "const" in schema:
        return "fixed"
    if "enum" in schema:
        return "choice"
    kinds: dict[str, FieldKind] = {"integer": "integer", "number": "number", "array": "list", "boolean": "flag"}
    return kinds.get(schema.get("type", ""), "text")


def _hint(schema: Schema) -> str:
    """Description, bounds and default in one sentence or two."""
    bounds = [f"{word} {_number(schema[key])}" for key, word in (*_MARKS, *_CEILINGS) if key in schema]
    said = [str(schema.get("description", "")).replace("`", "")]
    if bounds:
        said.append(", ".join(bounds).capitalize() + ".")
    if schema.get("type") == "array":
        said.append("Separate by commas.")
    if schema.get("type") == "object":
        said.append("As JSON.")
    if schema.get("optional"):
        said.append("Empty for none.")
    return " ".join(part for part in said if part)


def _number(value: float) -> str:
    return grouped(value) if value == int(value) else significant(value)


def _name(prefix: str, path: tuple[str, ...]) -> str:
    return ".".join((prefix, *path) if prefix else path)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value) if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _parse(text: str, kind: FieldKind, schema: Schema) -> object:
    """The text as JSON; what is no number stays text, for the schema's own complaint."""
    if kind == "list":
        items = schema.get("items", {})
        return [
            _parse(part.strip(), _kind(items), items) for part in text.replace("\n", ",").split(",") if part.strip()
        ]
    if kind == "flag":
        return text == "true"
    if kind == "choice":
        return next((choice for choice in schema["enum"] if str(choice) == text), text)
    try:
        return _parse_number(text, kind) if kind != "text" else _parse_object(text, schema)
    except ValueError:
        return text


def _parse_number(text: str, kind: FieldKind) -> object:
    if kind == "integer":
        return int(text)
    number = float(text)
    return number if isfinite(number) else text


def _parse_object(text: str, schema: Schema) -> object:
    return json.loads(text) if schema.get("type") == "object" else text
