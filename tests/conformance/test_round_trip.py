"""Whatever is read can be written again: one of the standard's own tests of each operator, as ONNX and as .pt2."""

from pathlib import Path

import pytest
import torch
from onnx.backend.test.case.test_case import TestCase

from core.errors import ModelpressError
from core.network.export import export_onnx, export_pt2
from core.network.inspect import read
from core.network.network import Network
from tests.conformance.onnx_cases import cases_by_operator, pin_inputs

# Makers of constants leave no network, and no layer of torch resets a gated unit as the standard's cases do.
UNREAD = {"Constant", "ConstantOfShape", "GRU", "Range"}
Read = tuple[Network, tuple[torch.Tensor, ...]]


@pytest.mark.slow
def test_an_operator_that_is_read_is_written_to_both_formats(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    unread, wrong = set(), {}
    for operator, cases in cases_by_operator().items():
        found = next(filter(None, (_read(case, tmp_path / "in.onnx") for case in cases)), None)
        if found is None:
            unread.add(operator)
            continue
        network, inputs = found
        for export, name in ((export_onnx, "out.onnx"), (export_pt2, "out.pt2")):
            try:
                # Both read again what they wrote, and compare it with the network.
                export(network, tmp_path / name, probes=inputs)
            except ModelpressError as error:
                wrong[operator, name] = error.detail
    assert unread == UNREAD
    assert not wrong


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
