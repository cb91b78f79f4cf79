"""A job that takes seconds: a small classifier as ONNX, trained on the demo's digits at a quarter of their size."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from core.description import DatasetSpec, InputMapping, SplitArrays
from core.messages import RunJob, StagedFile

ROOT = Path(__file__).parents[3]
SIDE = 14
MEAN = STD = 0.5
SPEC = DatasetSpec(
    task="classification",
    inputs={"x": InputMapping(layout="NHW", scale=1 / 255, mean=(MEAN,), std=(STD,))},
    splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
)


@dataclass(frozen=True)
class SmallJob:
    """A model and a data set; `ask` makes the request that a runner gets of them."""

    model: Path
    data: Path

    def ask(self, work: Path, *steps: dict[str, Any], **changes: Any) -> RunJob:
        asked = {
            "job": "job_one",
            "recipe": {"steps": steps},
            "target": {"batch_sizes": [1]},
            "constraints": {},
            "seed": 1,
            "model": [staged(self.model)],
            "dataset": [staged(self.data)],
            "dataset_spec": SPEC,
            "lock_path": str(work / "lock"),
        }
        return RunJob.model_validate(asked | changes)


def staged(path: Path) -> StagedFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return StagedFile(path=str(path), filename=path.name, sha256=digest, bytes=len(content))


def write_small_job(folder: Path) -> SmallJob:
    """Write both files."""
    digits = {name: value[:256] for name, value in np.load(ROOT / "demo" / "mnist.npz").items()}
    digits |= {name: np.ascontiguousarray(digits[name][:, ::2, ::2]) for name in ("x_train", "x_test")}
    data, model = folder / "digits.npz", folder / "small.onnx"
    np.savez(data, **digits)
    x = (torch.from_numpy(digits["x_train"]).float()[:, None] / 255 - MEAN) / STD
    _write(_train(x, torch.from_numpy(digits["y_train"]).long()), model)
    return SmallJob(model, data)


class _Small(nn.Module):
    """Two convolutions, two residual ones, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.res1, self.res2 = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        for layer in (self.res1, self.res2):
            x = x + torch.relu(layer(x))
        found: Tensor = self.fc(x.flatten(1))
        return found


def _train(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _Small()
        optimiser = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    return network.state_dict()


def _write(weights: dict[str, Tensor], path: Path) -> None:
    nodes, last = [], "x"
    for name, stride in (("conv1", 2), ("conv2", 2), ("res1", 1), ("res2", 1)):
        window = {"kernel_shape": [3, 3], "strides": [stride, stride], "pads": [1, 1, 1, 1]}
        taken = [last, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", taken, [f"{name}.y"], name=name, **window))
        nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.relu"]))
        if stride == 1:
            nodes.append(helper.make_node("Add", [last, f"{name}.relu"], [f"{name}.sum"]))
        last = nodes[-1].output[0]
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
