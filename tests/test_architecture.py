"""Rules that no tool of ours checks otherwise; each says why in its message."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("api", "core", "docs", "launch", "migrations", "modelpress", "runner", "tools", "workers")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
BINARY = {".ico", ".npz", ".onnx", ".png", ".pt2", ".woff2"}


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, kind):
                yield file, node


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_modules_are_short() -> None:
    modules = [file for file in SOURCES if "migrations/versions" not in name(file)]
    long = [name(file) for file in modules if len(file.read_text().splitlines()) > 400]
    assert not long, "a module of more than 400 lines tells two stories"


def test_functions_are_short() -> None:
    long = [
        f"{name(file)}: {node.name}"
        for kind in (ast.FunctionDef, ast.AsyncFunctionDef)
        for file, node in nodes(kind)
        if isinstance(node, kind)
        and (node.end_lineno or 0) - node.lineno >= 60
        and not name(file).startswith("migrations/versions/")
    ]
    assert not long, "a function of more than 60 lines is two functions"


def test_only_the_session_commits() -> None:
    places = {name(file) for file, node in nodes(ast.Call) if called(node).endswith(".commit")}
    assert places <= {"core/database/session.py"}, "one request is one transaction (ADR 3)"


def test_only_services_query() -> None:
    places = {name(file) for file, node in nodes(ast.Call) if called(node) in {"select", "sqlalchemy.select"}}
    # The queue selects a call of pg_notify, no rows; networks have axes to select, and their code knows no database.
    allowed = ("core/services/", "core/database/", "core/queue.py", "core/network/")
    outside = {place for place in places if not place.startswith(allowed)}
    assert not outside, "queries live in the services, where the tenant is added"


@pytest.mark.parametrize("forbidden", ["torch.load", "pickle.load", "pickle.loads", "torch.export.load"])
def test_uploads_are_never_unpickled(forbidden: str) -> None:
    places = {name(file) for file, node in nodes(ast.Call) if called(node) == forbidden}
    # Our own export is loaded again to see that it computes the same.
    allowed = {"core/network/export_check.py"} if forbidden == "torch.export.load" else set()
    assert places <= allowed, "opening a stranger's file by it runs the stranger's code (ADR 8)"


def test_errors_are_caught_by_name() -> None:
    edges = ("runner/", "workers/", "api/")
    broad = [
        f"{name(file)}:{node.lineno}"
        for file, node in nodes(ast.ExceptHandler)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and not name(file).startswith(edges)
        and "#" not in file.read_text().splitlines()[node.lineno - 1]
    ]
    assert not broad, "only the edge of a task or request catches everything, or a line that says why"


def test_no_module_is_called_after_nothing() -> None:
    vague = {"utils", "helpers", "manager", "handler", "common", "misc"}
    assert not [name(file) for file in SOURCES if file.stem in vague], "a module is a noun that says what lives there"


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    hosts = re.compile(r"py" r"pi\.org|python" r"hosted|registry\.npm" r"js|deb\.debian" r"\.org")
    paths = re.compile(r"(?<![\w.])/(?:ho" r"me|ro" r"ot|Us" r"ers|wo" r"rk)/[a-z]+/")
    found = []
    for entry in filter(None, listed.split("\0")):
        file = ROOT / entry
        # Tests make up paths to see that they are stripped.
        if not file.is_file() or entry.startswith("tests/") or file.suffix in BINARY:
            continue
        text = file.read_text(errors="replace")
        found += [entry] if hosts.search(text) or paths.search(text) else []
    assert not found, "what is committed must be the same for everybody"
