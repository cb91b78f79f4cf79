"""Rules of the house that a reader would have to check by hand."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
API = sorted((ROOT / "api").rglob("*.py"))


def own_nodes(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def test_async_functions_await() -> None:
    """An `async def` without await holds the event loop; a route that only works is a plain `def`."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield)
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in API
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef) and not any(isinstance(inner, waits) for inner in own_nodes(node))
    ]
    assert found == []


def test_importing_the_application_needs_neither_settings_nor_torch() -> None:
    code = "import sys, api.app; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
