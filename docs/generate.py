"""Writes the generated pages of the documentation; with `--check` it only compares, and fails where one is old."""

import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
import typer.core
import yaml
from markdown_it import MarkdownIt
from onnx.defs import get_all_schemas_with_history

from core.errors import CATALOGUE, Kind
from core.findings import CATALOGUE as FINDINGS
from core.network.aten_operators import ATEN_NAMES
from core.network.onnx_operators import OPERATORS
from core.network.onnx_version import OLDEST_OPSET
from core.settings import Settings
from core.specs.base import Spec
from core.specs.composition import FOLLOWS, KINDS, follow
from core.specs.methods import METHODS, method_name
from modelpress.cli.main import app

DOCS = Path(__file__).parent
_NOTE = "<!-- Written by docs/generate.py (`make docs`); change the code, not this page. -->\n"


def pages() -> dict[str, str]:
    """Every generated page by its path below docs/."""
    made: dict[str, Callable[[], str]] = {
        "settings.md": settings_page,
        "errors.md": errors_page,
        "findings.md": findings_page,
        "operators.md": operators_page,
        "encodings.md": encodings_page,
        "cli.md": cli_page,
    }
    texts = {path: page() for path, page in made.items()}
    texts["methods/README.md"] = methods_page()
    for spec in METHODS:
        texts[f"methods/{method_name(spec)}.md"] = method_page(spec)
    noted = {path: f"{_NOTE}\n{text}" for path, text in texts.items()}
    return {**noted, "../api/dashboard/templates/data_guide.html": data_guide()}


def data_guide() -> str:
    """docs/data.md as the part of a page that the dashboard shows, since a service has no other copy of it."""
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = renderer.parse((DOCS / "data.md").read_text(encoding="utf-8").partition("\n")[2])
    for token, after in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", re.sub(r"[^a-z0-9]+", "-", after.content.lower()).strip("-"))
    text = str(renderer.renderer.render(tokens, renderer.options, {}))
    # What is wider than the page scrolls by itself, also by keys.
    for tag, name in (("table", "Table"), ("pre", "Example")):
        first, *others = text.split(f"<{tag}>")
        opened = (
            f'<div class="scroll" role="region" aria-label="{name} {number}" tabindex="0"><{tag}>{other}'
            for number, other in enumerate(others, 1)
        )
        text = "".join([first, *opened]).replace(f"</{tag}>", f"</{tag}></div>")
    note = "{# Written by docs/generate.py (`make docs`) from docs/data.md; change that, not this. #}"
    return f"{note}\n{{% raw %}}\n{text}{{% endraw %}}\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---" for _ in head], *(list(row) for row in rows)]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def settings_page() -> str:
    """The environment variables, from `core.settings`."""
    prefix = str(Settings.model_config.get("env_prefix", ""))
    rows = []
    for name, field in Settings.model_fields.items():
        alias = getattr(field.validation_alias, "choices", [f"{prefix}{name.upper()}"])[0]
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        rows.append([f"`{alias}`", default, field.description or ""])
    return (
        "# Settings\n\nAPI, workers and dispatcher read these variables. `modelpress up` sets addresses "
        "where they are absent; lists are written as JSON.\n\n" + table(["variable", "default", "meaning"], rows)
    )


def errors_page() -> str:
    """The codes of errors, from `core.errors`."""
    sections = ["# Errors\n\nEvery error has a stable `code`, a sentence about this very case, and a hint.\n"]
    for kind in Kind:
        rows = [[f"`{each.code}`", each.title, each.hint] for each in CATALOGUE.values() if each.kind == kind]
        if rows:
            sections.append(
                f"## {kind.value.replace('_', ' ').capitalize()}\n\n{table(['code', 'what', 'hint'], rows)}"
            )
    return "\n".join(sections)


def findings_page() -> str:
    """The codes of findings, from `core.findings`."""
    rows = [[f"`{each.code}`", each.severity, each.title, each.explanation] for each in FINDINGS.values()]
    head = "# Findings\n\nA verdict remarks what moved, and why what did not move did not. The codes are stable.\n\n"
    return head + table(["code", "severity", "what", "why, and what to do"], rows)


def operators_page() -> str:
    """The operators of networks that are read, their limits, and how many of the standard's own tests they pass."""
    expected = json.loads((DOCS.parent / "tests" / "conformance" / "expected.json").read_text())
    rows = [_operator_row(name, expected["operators"]) for name in sorted(OPERATORS)]
    counts = [sum(row[key] for row in expected["operators"].values()) for key in ("passed", "total")]
    calls = sorted({name.removeprefix("torch.ops.aten.").partition(".")[0] for name in ATEN_NAMES})
    models = [
        [name, f"{row['passed']}/{row['total']}", row.get("missing", "")] for name, row in expected["models"].items()
    ]
    return (
        "# Operators\n\nA network is read when every node is one of these, and when it then computes what the file "
        "computes. Any other ONNX file that onnxruntime runs is used as it is (mode `onnx_only`), and the model says "
        "which node was the first that could not be read, and why.\n\n"
        f"## ONNX\n\n{len(OPERATORS)} operators of the standard's own domain in opset {OLDEST_OPSET} and later, by the "
        "rules of each version; older files are brought up by the converter of the `onnx` package. `Constant`, `Shape` "
        "and `Size` are read too, an `If` whose condition is constant is one of its branches, and functions of the "
        "file's own are put in place. `Loop`, `Scan`, sequences, maps, texts, sparse and complex numbers, operators of "
        "other domains, and files that compute in integers are not read. Floating-point numbers of any width are "
        "computed in float32. Inputs under *constant* may depend on sizes, not on data.\n\n"
        f"The tests are the node tests inside of onnx {expected['onnx']} (passed/total; {counts[0]} of {counts[1]} "
        "in all; expansions of functions are tests of other operators). Where one does not pass, the last column says "
        "why: the node is refused, save for `Resize` and `TopK`, where the answer differs and the comparison with the "
        "file decides.\n\n"
        + table(["operator", "versions", "constant", "tests", "what is not read, and why"], rows)
        + "\nWhole models of the same package:\n\n"
        + table(["models", "tests", "why the others do not pass"], models)
        + f"\n## PyTorch\n\nA `.pt2` file of torch 2.13 may call these {len(calls)} operators of ATen "
        f"({len(ATEN_NAMES)} overloads), and arithmetic on sizes:\n\n{', '.join(f'`{name}`' for name in calls)}.\n"
    )


def _operator_row(name: str, expected: dict[str, dict[str, Any]]) -> list[str]:
    schemas = {
        each.since_version: each for each in get_all_schemas_with_history() if (each.domain, each.name) == ("", name)
    }
    first = max((version for version in schemas if version <= OLDEST_OPSET), default=min(schemas))
    versions = ", ".join(str(version) for version in sorted(schemas) if version >= first)
    inputs = schemas[max(schemas)].inputs
    constant = ", ".join(f"`{inputs[at].name}`" for at in sorted(OPERATORS[name].static) if at < len(inputs))
    row = expected.get(name)
    tests = f"{row['passed']}/{row['total']}" if row else "none"
    return [f"`{name}`", versions, constant, tests, row.get("missing", "") if row else ""]


def encodings_page() -> str:
    """How weights may be stored, and what may follow what, from `core.specs.composition`."""
    rows = [
        [
            f"`{before}`",
            *(follow(before, after).effect if after in FOLLOWS[before] else "refused" for after in KINDS[1:]),
        ]
        for before in KINDS
    ]
    reasons: dict[tuple[str, str], list[str]] = {}
    for before in KINDS:
        for after, rule in FOLLOWS[before].items():
            reasons.setdefault((rule.effect, rule.why), []).append(f"`{before}` → `{after}`")
    why = [[effect, text, ", ".join(pairs)] for (effect, text), pairs in reasons.items()]
    return (
        f"{(DOCS / 'encodings.head.md').read_text()}\n## What may follow what\n\nRows are what is there, columns what "
        "a later step puts on it. *Stacks*: both hold. *Replaces*: the weights are encoded anew. Recipes are checked "
        "against this table before anything runs.\n\n"
        + table(["", *(f"`{kind}`" for kind in KINDS[1:])], rows)
        + "\n"
        + table(["effect", "why", "where"], why)
    )


def methods_page() -> str:
    """The list of methods."""
    rows = [[f"[`{method_name(spec)}`]({method_name(spec)}.md)", spec.family, spec.title] for spec in METHODS]
    return "# Methods\n\n" + table(["method", "family", "title"], rows)


def method_page(spec: type[Spec]) -> str:
    """One method: what it needs, its settings, an example."""
    name = method_name(spec)
    recipe = yaml.safe_dump({"recipe": {"version": 1, "steps": [dict(spec.example)]}}, sort_keys=False)
    schema = spec.model_json_schema()
    rows = list(_setting_rows(schema, schema["properties"]))
    return (
        f"# {spec.title}\n\n{inspect.cleandoc(spec.__doc__ or '')}\n\n`{name}`, family `{spec.family}`. "
        f"Needs {spec.needs.words()}.\n\n```yaml\n{recipe}```\n\n## Settings\n\n"
        + table(["setting", "type", "default", "meaning"], rows)
    )


def _setting_rows(schema: dict[str, Any], properties: dict[str, Any], prefix: str = "") -> Iterable[list[str]]:
    for name, field in properties.items():
        yield [f"`{prefix}{name}`", _kind(field), f"`{_plain(field.get('default'))}`", field.get("description", "")]
        inner = _resolve(schema, field)
        if "properties" in inner:
            yield from _setting_rows(schema, inner["properties"], f"{prefix}{name}.")
        entry = field.get("additionalProperties")
        if isinstance(entry, dict) and "properties" in (inner := _resolve(schema, entry)):
            yield from _setting_rows(schema, inner["properties"], f"{prefix}{name}.NAME.")


def _resolve(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    options = (*field.get("allOf", ()), *field.get("anyOf", ()))
    reference = field.get("$ref") or next((each["$ref"] for each in options if "$ref" in each), None)
    return dict(schema["$defs"][reference.rsplit("/", 1)[1]]) if reference else {}


def _kind(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        options = [_kind(option) for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join([*options, *(["nothing"] if len(options) < len(field["anyOf"]) else [])])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    bounds = [
        f"{sign} {field[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field
    ]
    return " ".join([str(field.get("type", "object")), *([", ".join(bounds)] if bounds else [])])


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def cli_page() -> str:
    """The command line, from its own help."""
    group = typer.main.get_command(app)
    text = [
        "# Command line\n",
        "Server and key come from `MODELPRESS_URL` and `MODELPRESS_KEY`, else from `modelpress login`, else from a "
        "`modelpress up` in the same folder. `--json` prints what the API answers.\n",
        table(
            ["exit code", "meaning"],
            [
                ["0", "done; the constraints of the job hold"],
                ["1", "the service refused, or something failed"],
                ["2", "the command was typed wrongly, or no key is known"],
                ["3", "the model was rejected, the job failed or was cancelled"],
                ["4", "the job succeeded but its constraints do not hold, or the dry run objects"],
                ["5", "no service answers"],
            ],
        ),
        *_commands(group, "modelpress"),
    ]
    return "\n".join(text)


def _commands(command: Any, path: str) -> Iterable[str]:
    for name, each in getattr(command, "commands", {}).items():
        rows = [_parameter(parameter) for parameter in each.params if parameter.name != "help"]
        yield f"## `{path} {name}`\n\n{(each.help or '').strip()}\n"
        if rows:
            yield table(["argument or option", "default", "meaning"], rows)
        yield from _commands(each, f"{path} {name}")


def _parameter(parameter: Any) -> list[str]:
    option = parameter.param_type_name == "option"
    name = ", ".join([*parameter.opts, *parameter.secondary_opts]) if option else str(parameter.name).upper()
    default = "required" if parameter.required else parameter.default
    shown = "" if default in {None, False, ()} or default == [] else str(default)
    return [f"`{name}`", shown, parameter.help or ""]


def main(*, check: bool) -> int:
    """Write or compare; gives 1 when a page is old."""
    old = []
    wanted = pages()
    for path, text in wanted.items():
        file = DOCS / path
        if (file.read_text() if file.exists() else None) != text:
            old.append(path)
            if not check:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
    gone = [file for file in (DOCS / "methods").glob("*.md") if f"methods/{file.name}" not in wanted]
    old += [f"methods/{file.name}" for file in gone]
    if check and old:
        sys.stderr.write(f"These pages are old; run `make docs`: {', '.join(old)}\n")
        return 1
    for file in gone:
        file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
