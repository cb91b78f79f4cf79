"""`.pt2` files of small networks, exported in several ways, against the module that they came from."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.inspect import inspect, read

NETWORKS = ("residual", "attention", "tied", "series")


def outputs(graph: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = graph(*inputs)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_its_module_does(name: str, decomposed: bool, request, save_pt2) -> None:
    module, example = request.getfixturevalue(name)
    network = read(save_pt2(module, example, decomposed=decomposed))
    assert network.batch == "dynamic"
    larger = torch.cat([example, example.flip(0), example])[:5]
    for ours, theirs in zip(outputs(network.graph, larger), outputs(module.eval(), larger), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_inspection_is_exact(name: str, request, save_pt2) -> None:
    module, example = request.getfixturevalue(name)
    description = inspect(save_pt2(module, example))
    assert description.format == "pt2"
    assert description.parity.max_abs_difference <= 1e-4 * description.parity.max_abs_output
    assert description.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert description.producer
    assert description.producer.startswith("torch 2.")


def test_names_are_those_of_the_users_module(residual, save_pt2) -> None:
    module, example = residual
    network = read(save_pt2(module, example))
    ours = {name for name, _ in network.graph.named_parameters()}
    assert ours == {name for name, _ in module.named_parameters()}


def test_a_network_in_training_mode_is_refused(tmp_path: Path, residual) -> None:
    module, example = residual
    torch.export.save(torch.export.export(module.train(), (example,)), tmp_path / "a.pt2")
    with pytest.raises(ModelpressError) as raised:
        read(tmp_path / "a.pt2")
    assert raised.value.code == "unsupported_graph"
    assert "eval()" in raised.value.hint


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


def test_a_network_that_changes_its_own_buffer_is_refused(save_pt2) -> None:
    with pytest.raises(ModelpressError) as raised:
        read(save_pt2(Counting(), torch.zeros(2, 3)))
    assert raised.value.code == "unsupported_graph"


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))


def test_control_flow_is_refused_with_its_node(save_pt2) -> None:
    with pytest.raises(ModelpressError) as raised:
        read(save_pt2(Branching(), torch.zeros(2, 3)))
    assert raised.value.code in ("unsupported_operator", "unsupported_graph")


class Named(nn.Module):
    """Layers named like attributes of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(4, 4)
        self.code = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self.graph(x))


def test_names_that_would_hide_attributes_get_an_underscore(save_pt2) -> None:
    assert [layer.name for layer in inspect(save_pt2(Named(), torch.randn(2, 4))).layers] == ["graph_", "code_"]


class Strided(nn.Module):
    """A weight that is a view of a larger storage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8).t()[::2])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def test_a_strided_weight_keeps_its_values(save_pt2) -> None:
    module = Strided()
    network = read(save_pt2(module, torch.randn(2, 6)))
    stored = next(network.graph.parameters())
    torch.testing.assert_close(stored.detach(), module.weight.detach(), rtol=0, atol=0)
    assert stored.is_contiguous()


def test_half_precision_is_computed_in_fp32(save_pt2) -> None:
    network = read(save_pt2(nn.Linear(4, 3).half(), torch.randn(2, 4).half()))
    assert network.dtype == "float16"
    assert all(parameter.dtype == torch.float32 for parameter in network.graph.parameters())


def test_stripped_bytes_leave_out_sample_inputs(save_pt2) -> None:
    small, large = nn.Flatten(), nn.Flatten()
    few = inspect(save_pt2(small, torch.zeros(2, 3, 4))).bytes_stripped
    path = save_pt2(large, torch.zeros(50, 3, 400))
    assert path.stat().st_size > 200_000
    assert abs(inspect(path).bytes_stripped - few) < 1000


def test_sample_inputs_that_carry_much_more_are_told_of(save_pt2) -> None:
    large = torch.randn(100_000, 4)
    assert inspect(save_pt2(nn.Linear(4, 2), large[:2].clone())).warnings == ()
    (warning,) = inspect(save_pt2(nn.Linear(4, 2), large[:2])).warnings
    assert "1.6 MB" in warning


def test_a_pt2_of_another_schema_is_refused_with_the_command(tmp_path: Path, save_pt2) -> None:
    path = save_pt2(nn.Linear(4, 2), torch.randn(2, 4))
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "old.pt2", "w") as changed:
        for entry in archive.infolist():
            data = archive.read(entry)
            if "/models/" in entry.filename:
                program = json.loads(data)
                program["schema_version"]["major"] = 7
                program["torch_version"] = "2.10.0"
                data = json.dumps(program).encode()
            changed.writestr(entry.filename, data)
    with pytest.raises(ModelpressError, match=r"torch 2\.10\.0") as raised:
        read(tmp_path / "old.pt2")
    assert raised.value.code == "unsupported_version"
    assert "torch.export.load" in raised.value.hint
