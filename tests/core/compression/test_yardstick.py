"""Choices are made in the same direction as the verdict's metric, for every task."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from core.compression.yardstick import Yardstick, input_batches
from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays, TensorDescription
from core.network.network import Network

INPUTS = (TensorDescription(name="x", dtype="float32", shape=("batch", 3)),)
CODES = np.tile(np.eye(3), (20, 1)).astype(np.float32)


def linear(weight: np.ndarray) -> Network:
    layer = nn.Linear(3, 3, bias=False)
    layer.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
    return Network(fx.symbolic_trace(nn.Sequential(layer)), INPUTS, INPUTS)


@pytest.mark.parametrize(
    ("task", "y", "quality"),
    [
        ("classification", np.arange(60) % 3, 1.0),
        ("multi_label", CODES.astype(int), 1.0),
        ("regression", CODES, 0.0),
        ("embedding", None, 1.0),
        ("multi_label", None, 0.0),
        ("none", None, 0.0),
    ],
)
def test_what_is_worse_counts_as_a_drop(tmp_path: Path, task: str, y: np.ndarray | None, quality: float) -> None:
    arrays = {"x": CODES} if y is None else {"x": CODES, "y": y}
    np.savez(tmp_path / "a.npz", **arrays)
    split = SplitArrays(x="x", y=None if y is None else "y")
    dataset = open_dataset([tmp_path / "a.npz"], DatasetSpec(task=task, splits={"validation": split}), INPUTS)
    yardstick = Yardstick(linear(np.eye(3)), dataset, split="validation", limit=100)
    assert yardstick.original.quality == pytest.approx(quality)
    assert yardstick.drop(yardstick.score(linear(np.eye(3)))) == pytest.approx(0)
    assert yardstick.drop(yardstick.score(linear(np.roll(np.eye(3), 1, axis=0)))) > 0.1


def test_answers_beyond_all_numbers_have_no_ratio(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=CODES)
    dataset = open_dataset(
        [tmp_path / "a.npz"], DatasetSpec(task="none", splits={"validation": SplitArrays(x="x")}), INPUTS
    )
    yardstick = Yardstick(linear(np.eye(3)), dataset, split="validation", limit=100)
    endless = linear(np.eye(3))
    endless.graph.get_submodule("0").register_parameter("bias", nn.Parameter(torch.full((3,), torch.inf)))
    assert not np.isfinite(yardstick.score(endless).sqnr_db)


@pytest.mark.parametrize("y", [None, np.arange(60) % 3])
def test_a_network_of_a_fixed_batch_gets_one_where_fewer_samples_are_wanted(
    tmp_path: Path, y: np.ndarray | None
) -> None:
    np.savez(tmp_path / "a.npz", **({"x": CODES} if y is None else {"x": CODES, "y": y}))
    split = SplitArrays(x="x", y=None if y is None else "y")
    task = "classification" if y is not None else "none"
    fixed = (TensorDescription(name="x", dtype="float32", shape=(16, 3)),)
    dataset = open_dataset([tmp_path / "a.npz"], DatasetSpec(task=task, splits={"validation": split}), fixed)
    network = Network(linear(np.eye(3)).graph, fixed, fixed)
    assert [len(x) for (x,) in input_batches(network, dataset, "validation", limit=4)] == [16]
    assert Yardstick(network, dataset, split="validation", limit=4).samples == 16
    assert not list(
        input_batches(
            Network(network.graph, (fixed[0].model_copy(update={"shape": (61, 3)}),), fixed),
            dataset,
            "validation",
            limit=4,
        )
    )


def test_a_sigmoid_is_judged_as_the_logits_beneath(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=CODES, y=CODES.astype(int))
    split = SplitArrays(x="x", y="y")
    dataset = open_dataset([tmp_path / "a.npz"], DatasetSpec(task="multi_label", splits={"validation": split}), INPUTS)
    likely, plain = (
        Network(fx.symbolic_trace(nn.Sequential(linear(4 * np.eye(3) - 2).graph, *last)), INPUTS, INPUTS)
        for last in ((nn.Sigmoid(),), ())
    )
    scores = [Yardstick(each, dataset, split="validation", limit=100).original for each in (likely, plain)]
    assert scores[0].quality == scores[1].quality == 1.0
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-4)
