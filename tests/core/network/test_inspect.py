"""The networks that ship with the repository, from both formats."""

from pathlib import Path

import pytest
import torch

from core.network.inspect import inspect, read

DEMO = Path(__file__).parents[3] / "demo"


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_the_shipped_network_is_ready(suffix: str) -> None:
    description = inspect(DEMO / f"lenet5.{suffix}")
    assert (description.format, description.batch) == (suffix, "dynamic")
    assert [layer.name for layer in description.layers] == ["conv1", "conv2", "fc1", "fc2"]
    assert (description.parameters, description.macs) == (431_080, 2_293_000)
    assert description.inputs[0].shape == ("batch", 1, 28, 28)
    assert description.parity.max_abs_difference <= 1e-4 * description.parity.max_abs_output


def test_both_files_hold_the_same_network() -> None:
    inputs = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        first, second = (read(DEMO / f"lenet5.{suffix}").graph(inputs) for suffix in ("onnx", "pt2"))
    torch.testing.assert_close(first, second)


def test_the_seed_decides(tmp_path: Path) -> None:
    path = DEMO / "lenet5.pt2"
    assert inspect(path, 1) == inspect(path, 1)
