"""Keeping torch's table changes no byte of a file, and no table but that of the export under way."""

import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from core.network.onnx_translations import keep_translations
from core.network.silence import silence


def export() -> bytes:
    program = torch.export.export(nn.Sequential(nn.Linear(3, 2), nn.GELU()).eval(), (torch.ones(1, 3),))
    with torch.no_grad():
        for value in program.state_dict.values():
            value.fill_(0.5)
    with silence():
        made = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False)
    assert made is not None
    return made.model_proto.SerializeToString(deterministic=True)


def test_files_are_the_same_with_and_without() -> None:
    plain = export()
    with keep_translations():
        kept = [export(), export()]
    assert kept == [plain, plain]


def test_what_an_export_adds_is_not_there_for_the_next() -> None:
    tables = []
    for _ in range(2):
        with keep_translations():
            table = ONNXRegistry.from_torchlib(20)
        tables.append({name: len(found) for name, found in table.functions.items()})
        table.register_op(torch.ops.aten.gelu.default, lambda x: x)
    assert tables[0] == tables[1]
    assert tables[0] == {name: len(found) for name, found in ONNXRegistry.from_torchlib(20).functions.items()}
