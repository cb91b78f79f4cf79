"""Rules of the house that a reader would have to check by hand."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = sorted((ROOT / "api").rglob("*.py"))
SERVICE = sorted(path for folder in ("api", "core", "workers") for path in (ROOT / folder).rglob("*.py"))


def own_nodes(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", API, ids=lambda path: str(path.relative_to(ROOT)))
def test_async_functions_await(path: Path) -> None:
    """An `async def` without await holds the event loop; a route that only works is a plain `def`."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AsyncFunctionDef):
            assert any(isinstance(inner, waits) for inner in own_nodes(node)), f"{path}:{node.lineno} never awaits"


def test_only_the_session_module_commits() -> None:
    """A commit elsewhere would tear apart what belongs in one transaction."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SERVICE
        if path != ROOT / "core/database/session.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    ]
    assert found == []


def test_the_api_builds_no_queries() -> None:
    """Queries live in the services, where the tenant is in each of them."""
    banned = {"select", "insert", "update", "delete", "text"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in API
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("sqlalchemy")
        and banned & {name.name for name in node.names}
    ]
    assert found == []


def test_importing_the_application_needs_neither_settings_nor_torch() -> None:
    code = "import sys, api.app; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
