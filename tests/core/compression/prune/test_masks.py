from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.compression.candidates import find_candidates
from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune.criteria import weigh
from core.compression.prune.masks import MaskPruner
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure.runtime import open_session, run_session
from core.messages import ProgressMessage
from core.network.encodings import AffineInteger, Masked, packed_grid
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from core.specs.budgets import MaskBudget
from core.specs.mask_pruning import KernelPruning, MaskPruning, VectorPruning, WeightPruning

MakeContext = Callable[..., Context]


def mask_of(network: Network, path: str) -> torch.Tensor:
    encoding = network.encodings[f"{path}.weight"]
    assert isinstance(encoding, Masked)
    return encoding.mask


def shares(network: Network) -> dict[str, float]:
    return {
        name.removesuffix(".weight"): float(mask_of(network, name[:-7]).float().mean()) for name in network.encodings
    }


@pytest.mark.parametrize(
    "spec",
    [
        WeightPruning(keep=MaskBudget(weights=0.3)),
        WeightPruning(keep=MaskBudget(weights=0.4), criterion="wanda", ranking="output"),
        WeightPruning(keep=MaskBudget(weights=0.4), criterion="fisher"),
        WeightPruning(keep=MaskBudget(weights=0.4), criterion="taylor", block=(2, 2)),
        WeightPruning(keep=MaskBudget(weights=0.4), criterion="random", ranking="layer"),
        WeightPruning(n=2, m=4, criterion="l2"),
        WeightPruning(keep=MaskBudget(weights=0.5), block=(4, 4), criterion="l1"),
        VectorPruning(keep=MaskBudget(weights=0.5)),
        KernelPruning(keep=MaskBudget(weights=0.5), criterion="l2"),
    ],
    ids=lambda spec: f"{spec.method} {spec.criterion}",
)
def test_what_stays_keeps_its_value_and_the_rest_is_zero(
    residual: Network, context: MakeContext, images: Dataset, spec: MaskPruning
) -> None:
    spec = spec.model_copy(update={"update": "none"})
    pruned, report = MaskPruner().apply(residual, spec, context())
    check_step(residual, pruned, report, (next(images.batches("evaluation", 8)).inputs[images.inputs[0].name],))
    whole = kept = 0
    for path in report.layers:
        mask = mask_of(pruned, path)
        before, after = (each.graph.get_parameter(f"{path}.weight") for each in (residual, pruned))
        assert torch.equal(after, torch.where(mask, before, 0.0))
        whole, kept = whole + mask.numel(), kept + int(mask.sum())
    share = 0.5 if isinstance(spec, WeightPruning) and spec.n else spec.keep.amount
    # Rows and units are whole numbers of weights.
    assert kept / whole == pytest.approx(share, abs=0.06)
    assert set(report.sensitivities) == set(report.layers)


def test_vectors_and_kernels_go_whole(residual: Network, context: MakeContext) -> None:
    alone = replace(context(), alone=False)
    rows, _ = MaskPruner().apply(residual, VectorPruning(keep=MaskBudget(weights=0.4)), alone)
    columns, _ = MaskPruner().apply(residual, VectorPruning(keep=MaskBudget(weights=0.4), direction="columns"), alone)
    kernels, report = MaskPruner().apply(residual, KernelPruning(keep=MaskBudget(weights=0.4)), alone)
    for path in report.layers:
        assert bool((mask_of(rows, path).float().std(3) == 0).all())
        assert bool((mask_of(columns, path).float().std(2) == 0).all())
        assert bool((mask_of(kernels, path).flatten(2).float().std(2) == 0).all())
    # A kernel of one weight is a weight.
    assert "one.short" not in report.layers


def test_layers_have_shares_of_their_own_and_protected_ones_all(residual: Network, context: MakeContext) -> None:
    spec = WeightPruning(keep=MaskBudget(weights=0.5), layers={"fc1": 0.1}, protect=("stem",))
    pruned, _ = MaskPruner().apply(residual, spec, context())
    assert "stem.weight" not in pruned.encodings
    assert shares(pruned)["fc1"] == pytest.approx(0.1, abs=0.01)
    others = [mask_of(pruned, path) for path in shares(pruned) if path != "fc1"]
    assert sum(int(mask.sum()) for mask in others) / sum(mask.numel() for mask in others) == pytest.approx(
        0.5, abs=0.01
    )


def test_inputs_that_are_always_zero_count_nothing(residual: Network, context: MakeContext, images: Dataset) -> None:
    # Behind a channel that is dead nothing is worth anything, however large its weights are.
    graph = residual.graph
    graph.get_parameter("stem.weight").data[3] = 0.0
    graph.get_parameter("stem.bias").data[3] = -1.0
    graph.get_parameter("one.conv1.weight").data[:, 3] = 100.0
    spec = WeightPruning(keep=MaskBudget(weights=0.5), criterion="wanda", ranking="layer")
    alone = replace(context(), alone=False)
    pruned, _ = MaskPruner().apply(residual, spec, alone)
    assert not bool(mask_of(pruned, "one.conv1")[:, 3].any())
    by_size, _ = MaskPruner().apply(residual, spec.model_copy(update={"criterion": "l2", "update": "none"}), alone)
    assert bool(mask_of(by_size, "one.conv1")[:, 3].all())


def test_taylor_sums_over_a_unit_before_it_squares(residual: Network, context: MakeContext) -> None:
    # A kernel whose gradients lift each other counts for nothing, however large they are.
    candidates, _ = find_candidates(residual, (), takes=frozenset({"dense"}))
    kernels = [each for each in candidates if each.path == "one.conv1"]
    values = weigh(residual, kernels, KernelPruning(criterion="taylor", samples=8), context())["one.conv1.weight"]
    single = weigh(residual, kernels, WeightPruning(criterion="taylor", samples=8), context())["one.conv1.weight"]
    assert bool((values.flatten(2).std(2) < 1e-6 * values.flatten(2).mean(2) + 1e-20).all())
    # (Σ w·g)² is at most as often Σ (w·g)² as a unit has weights.
    summed, squared = (each.flatten(2).sum(2) for each in (values, single))
    assert bool((summed <= squared * 9 * (1 + 1e-4)).all())
    assert not torch.allclose(summed, squared, rtol=0.1)


def test_taylor_needs_labels(residual: Network, context: MakeContext, images_file: Path) -> None:
    spec = WeightPruning(criterion="taylor")
    assert spec.needs_labels()
    described = DatasetSpec(
        task="classification", splits={"train": SplitArrays(x="x"), "evaluation": SplitArrays(x="tx")}
    )
    unlabelled = open_dataset([images_file], described, residual.inputs)
    with pytest.raises(ModelpressError, match="needs calibration samples with labels"):
        MaskPruner().apply(residual, spec, replace(context(), dataset=unlabelled))


def test_a_mask_goes_over_integers_and_within_another_mask(residual: Network, context: MakeContext) -> None:
    weight = residual.graph.get_parameter("fc1.weight")
    encoding = AffineInteger.of(weight, grid=packed_grid(4), axis=0)
    weight.data = encoding.decode()
    integers = replace(residual, encodings={"fc1.weight": encoding})
    alone = replace(context(), alone=False)
    once, _ = MaskPruner().apply(integers, WeightPruning(keep=MaskBudget(weights=0.5), ranking="layer"), alone)
    twice, _ = MaskPruner().apply(once, WeightPruning(keep=MaskBudget(weights=0.2), ranking="layer"), alone)
    put = twice.encodings["fc1.weight"]
    assert put.kinds == ("masked", "affine_integer")
    assert not bool((mask_of(twice, "fc1") & ~mask_of(once, "fc1")).any())
    assert shares(twice)["fc1"] <= 0.21


def test_a_stock_runtime_answers_as_the_network_does(
    residual: Network, context: MakeContext, images: Dataset, tmp_path: Path
) -> None:
    pruned, _ = MaskPruner().apply(residual, WeightPruning(keep=MaskBudget(weights=0.1)), context())
    x = next(images.batches("evaluation", 16)).inputs[images.inputs[0].name]
    export_onnx(pruned, tmp_path / "model.onnx", probes=(x,))
    export_onnx(residual, tmp_path / "original.onnx", probes=(x,))
    (found,) = run_session(open_session(tmp_path / "model.onnx", 1), {pruned.inputs[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), pruned.graph(x), atol=1e-4, rtol=1e-4)
    assert (tmp_path / "model.onnx").stat().st_size < 0.6 * (tmp_path / "original.onnx").stat().st_size


def test_tied_weights_are_left_as_they_are(attention_file: Path, context: MakeContext) -> None:
    network = read(attention_file)
    spec = WeightPruning(keep=MaskBudget(weights=0.5), criterion="l2")
    pruned, report = MaskPruner().apply(network, spec, replace(context(), dataset=None))
    assert {"qkv", "out", "mlp1", "mlp2"} == set(report.layers)
    assert report.plan["left_out"] == ["head_2"]
    assert torch.equal(pruned.graph.get_parameter("head_2.weight"), network.graph.get_parameter("head_2.weight"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"n": 2}, "n and m belong together"),
        ({"n": 4, "m": 4}, "less than m"),
        ({"n": 2, "m": 4, "keep": 0.3}, "says how many weights stay"),
        ({"n": 2, "m": 4, "block": (2, 2)}, "exclude"),
        ({"keep": 0.0}, "greater than 0"),
        ({"keep": 1.0}, "less than 1"),
        ({"layers": {"a": 0.5}, "protect": ["a"]}, "both name a"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        WeightPruning.model_validate(settings)


def test_weights_that_are_no_numbers_end_in_a_sentence(residual: Network, context: MakeContext) -> None:
    residual.graph.get_parameter("fc1.weight").data[0, 0] = torch.nan
    with pytest.raises(ModelpressError, match="fc1"):
        MaskPruner().apply(residual, WeightPruning(), context())


def test_what_a_job_wrote_down_is_read_again() -> None:
    for spec in (WeightPruning(n=2, m=4), WeightPruning(block=(4, 2)), WeightPruning(layers={"a": 0.2})):
        assert WeightPruning.model_validate(spec.model_dump(mode="json")) == spec


def test_too_few_samples_for_a_batch_are_a_sentence(residual: Network, context: MakeContext) -> None:
    (x,) = residual.inputs
    bound = replace(residual, inputs=(x.model_copy(update={"shape": (400, *x.shape[1:])}),))
    for criterion in ("wanda", "fisher"):
        spec = WeightPruning.model_validate({"criterion": criterion})
        with pytest.raises(ModelpressError) as caught:
            MaskPruner().apply(bound, spec, context())
        assert caught.value.code == "missing_data"


@pytest.mark.parametrize("criterion", ["wanda", "fisher"])
def test_a_job_can_be_cancelled_between_batches(
    residual: Network, context: MakeContext, images: Dataset, criterion: str
) -> None:
    class CancelledError(Exception): ...

    seen: list[float] = []

    def emit(message: object) -> None:
        if isinstance(message, ProgressMessage):
            seen.append(message.fraction)
            if len(seen) == 3:
                raise CancelledError

    spec = WeightPruning.model_validate({"criterion": criterion})
    with pytest.raises(CancelledError):
        MaskPruner().apply(residual, spec, replace(context(), emit=emit))
    assert seen == sorted(set(seen))
    assert seen[-1] < 0.5
