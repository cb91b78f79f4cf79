"""Equalization, smoothing and rounding as `quantize.linear` is asked for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.quantize.linear import LinearQuantizer
from core.compression.yardstick import Yardstick, input_batches
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.messages import LogMessage, Message, ProgressMessage
from core.network.inspect import read
from core.network.network import Network
from core.specs.linear import LinearQuantization, WeightGrid
from core.specs.rounding import Rounding

FOUR = LinearQuantization(weights=WeightGrid(bits=4, per="tensor"), activations=None, bias_correction=False)


def test_equalized_layers_are_named_and_one_scale_loses_less(
    residual: Network, images: Dataset, context: Callable[[], Context], told: list[Message]
) -> None:
    probes = next(input_batches(residual, images, "calibration", limit=8, batch=8))
    yardstick = Yardstick(residual, images, split="validation", limit=64)
    plain, _ = LinearQuantizer().apply(residual, FOUR, context())
    made, report = LinearQuantizer().apply(residual, FOUR.model_copy(update={"equalize": True}), context())
    check_step(residual, made, report, probes)
    lines = [message.text for message in told if isinstance(message, LogMessage)]
    assert "Equalized: fc1, fc2, one.conv1, one.conv2, two.conv1, two.conv2." in lines
    assert yardstick.score(made).sqnr_db > yardstick.score(plain).sqnr_db


def test_kept_layers_are_left_as_they_are(residual: Network, context: Callable[[], Context]) -> None:
    spec = FOUR.model_copy(update={"equalize": True, "keep_float": ("fc1", "one.conv2")})
    made, report = LinearQuantizer().apply(residual, spec, context())
    assert not {"fc1", "one.conv2"} & set(report.layers)
    before, after = residual.graph.state_dict(), made.graph.state_dict()
    for name in ("fc1.weight", "fc1.bias", "one.conv2.weight", "one.conv2.bias", "one.conv1.bias", "fc2.bias"):
        assert torch.equal(before[name], after[name]), name


def test_a_smoothed_norm_is_named(attention_file: Path, tmp_path: Path, told: list[Message], context) -> None:
    network = read(attention_file)
    with torch.no_grad():
        network.graph.get_parameter("norm.weight")[3] = 50.0
    ids = np.random.default_rng(0).integers(0, 11, (48, 9))
    np.savez(tmp_path / "ids.npz", a=ids[:32], b=ids[32:])
    spec = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="a"), "evaluation": SplitArrays(x="b")})
    dataset = open_dataset([tmp_path / "ids.npz"], spec, network.inputs)
    asked = FOUR.model_copy(update={"smooth": 0.5, "weights": WeightGrid()})
    made, report = LinearQuantizer().apply(network, asked, replace(context(), dataset=dataset))
    assert {"norm", "qkv"} <= set(report.layers)
    check_step(network, made, report, next(input_batches(network, dataset, "calibration", limit=8, batch=8)))
    assert "Smoothed: norm, qkv." in [message.text for message in told if isinstance(message, LogMessage)]
    # Where a cancel is noticed.
    assert "Smoothing" in [message.message for message in told if isinstance(message, ProgressMessage)]


def test_gptq_loses_less_at_the_same_bytes_and_is_repeated_from_the_plan(
    residual: Network, images: Dataset, context: Callable[[], Context]
) -> None:
    spec = FOUR.model_copy(update={"weights": WeightGrid(bits=3), "rounding": Rounding(method="gptq", samples=64)})
    yardstick = Yardstick(residual, images, split="validation", limit=64)
    plain, _ = LinearQuantizer().apply(residual, spec.model_copy(update={"rounding": Rounding()}), context())
    made, report = LinearQuantizer().apply(residual, spec, context())
    assert yardstick.score(made).sqnr_db > yardstick.score(plain).sqnr_db + 2
    for name, encoding in made.encodings.items():
        assert encoding.bytes() == plain.encodings[name].bytes()
    again, _ = LinearQuantizer().apply(residual, spec, replace(context(), recorded=report.plan))
    state = made.graph.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.graph.state_dict().items())
