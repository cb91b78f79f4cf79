"""Whatever is read can be written again: one of the standard's own tests of each operator, as ONNX and as .pt2."""

from pathlib import Path

import pytest
import torch
from onnx.backend.test.case.test_case import TestCase

from core.errors import ModelpressError
from core.network.export import export_onnx, export_pt2
from core.network.inspect import read
from core.network.network import Network
from tests.conformance.onnx_cases import EXPECTED, cases_by_operator, pin_inputs

# Makers of constants leave no network.
UNREAD = {"Constant", "ConstantOfShape", "Range"}
Read = tuple[Network, tuple[torch.Tensor, ...]]


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(EXPECTED["operators"]))
def test_an_operator_that_is_read_is_written_to_both_formats(operator: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    # Making the cases takes seconds, so that the names of the tests come from what is written down of them.
    assert cases_by_operator().keys() == EXPECTED["operators"].keys()
    cases = cases_by_operator()[operator]
    found = next(filter(None, (_read(case, tmp_path / "in.onnx") for case in cases)), None)
    assert (found is None) == (operator in UNREAD)
    if found is not None:
        network, inputs = found
        # Both read again what they wrote, and compare it with the network.
        export_onnx(network, tmp_path / "out.onnx", probes=inputs)
        export_pt2(network, tmp_path / "out.pt2", probes=inputs)


def _read(case: TestCase, path: Path) -> Read | None:
    """The network of a case and its inputs; None where it is refused."""
    try:
        model, inputs = pin_inputs(case.model, list(case.data_sets[0][0]))
        path.write_bytes(model.SerializeToString())
        network = read(path) if inputs else None
    except ModelpressError:
        return None
    if network is None:
        return None
    # Casts are tested with NaN and infinity, and with tensors that are there for their type alone.
    shapes = ([size if isinstance(size, int) else 1 for size in described.shape] for described in network.inputs)
    return network, tuple(
        value.nan_to_num() if value.numel() else value.new_zeros(shape)
        for value, shape in zip(inputs, shapes, strict=True)
    )
