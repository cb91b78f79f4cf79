"""The standard's own tests of the operators that are read: how many pass, by operator, and that none is lost."""

import sys

import onnx
import pytest
import torch

from core.network.onnx_operators import OPERATORS
from tests.conformance.onnx_cases import EXPECTED, Tally, run_models, run_nodes

MISSING = {
    name: row["missing"]
    for rows in (EXPECTED["operators"], EXPECTED["models"])
    for name, row in rows.items()
    if "missing" in row
}
# Cases whose numbers differ: in all others that do not pass the reader refuses, which is what keeps a network right.
DIFFERENT = frozenset({"Resize", "TopK", "pytorch-operator"})


def show(tallies: dict[str, Tally]) -> None:
    for name, tally in tallies.items():
        note = f"  {MISSING.get(name, '?')}" if tally.failures else ""
        sys.stdout.write(f"{name:28} {tally.passed:3}/{tally.total:<3}{note}\n")
    passed, total = sum(tally.passed for tally in tallies.values()), sum(tally.total for tally in tallies.values())
    sys.stdout.write(f"{'all':28} {passed:3}/{total}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("run", "kind"), [(run_nodes, "operators"), (run_models, "models")])
def test_no_case_of_the_standard_is_lost(run, kind: str) -> None:
    torch.set_num_threads(1)
    tallies, wanted = run(), EXPECTED[kind]
    show(tallies)
    # What docs/operators.md says of them, neither less nor more.
    assert onnx.__version__.startswith(f"{EXPECTED['onnx']}.")
    counted = {name: (tally.passed, tally.total) for name, tally in tallies.items()}
    assert counted == {name: (row["passed"], row["total"]) for name, row in wanted.items()}
    assert {name for name, tally in tallies.items() if tally.failures} == {
        name for name, row in wanted.items() if "missing" in row
    }
    wrong = {name for name, tally in tallies.items() if "the numbers differ" in tally.failures.values()}
    assert wrong <= DIFFERENT


def test_every_operator_that_is_read_has_cases() -> None:
    assert set(OPERATORS) - set(EXPECTED["operators"]) == {"GlobalLpPool"}
