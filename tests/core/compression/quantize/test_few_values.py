"""`quantize.log2`, `.ternary`, `.binary`, `.codebook`: optimal values, masks, odd weights, limits and replays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.compression.candidates import Candidate, put_encodings
from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.quantize.book_weighting import weigh_errors
from core.compression.quantize.few_values import Given
from core.compression.registry import method_of
from core.compression.yardstick import Yardstick
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, ModelDescription, SplitArrays
from core.errors import ModelpressError
from core.messages import Message, MetricMessage
from core.network.describe import describe
from core.network.encodings import AffineInteger, Codebook, Dense, Half, Masked, packed_grid
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from core.specs.codebook import CodebookQuantization
from core.specs.few_values import FewValues
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.recipe import Constraints
from tests.core.compression.conftest import save

MakeContext = Callable[..., Context]
LAYERS = {"stem", "one.conv1", "one.conv2", "one.short", "two.conv1", "two.conv2", "two.short", "fc1", "fc2"}
SPECS: dict[str, FewValues] = {
    "log2": LogQuantization(),
    "fine log2": LogQuantization(bits=5, per_octave=2, per="tensor"),
    "powers": LogQuantization(bits=3, scale="power_of_two"),
    "ternary": TernaryQuantization(),
    "ternary by tensor": TernaryQuantization(per="tensor"),
    "binary": BinaryQuantization(),
    "codebook": CodebookQuantization(values=8),
    "codebooks": CodebookQuantization(values=5, groups=4),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def probes(dataset: Dataset) -> tuple[Tensor, ...]:
    return (next(dataset.batches("evaluation", 16)).inputs[dataset.inputs[0].name],)


def encode(spec: FewValues, weight: Tensor, mask: Tensor | None = None, importance: Tensor | None = None):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    return method_of(spec).encode(Given(Candidate("fc", "weight", layer), mask, importance), spec)


def error(spec: FewValues, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    difference = encode(spec, weight, mask).decode() - weight
    return (difference if mask is None else difference * mask).double().square().sum(1)


@every_spec
def test_all_layers_are_encoded_in_few_bytes(
    spec: FewValues, residual: Network, context: MakeContext, images: Dataset
) -> None:
    made, report = method_of(spec).apply(residual, spec, replace(context(), dataset=None))
    assert set(report.layers) == LAYERS
    assert set(report.plan["encodings"]) == {f"{layer}.weight" for layer in LAYERS}
    assert {encoding.kind for encoding in made.encodings.values()} == {spec.encodes}
    assert report.sensitivities == {}
    check_step(residual, made, report, probes(images))
    dense = sum(encoding.decode().numel() * 4 for encoding in made.encodings.values())
    stored = sum(sum(encoding.bytes().model_dump().values()) for encoding in made.encodings.values())
    assert stored < dense / 2


@every_spec
def test_under_a_mask_zeros_stay_and_only_the_rest_has_a_say(
    spec: FewValues, residual: Network, context: MakeContext
) -> None:
    weight = residual.graph.get_parameter("fc1.weight")
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    weight.data = torch.where(mask, weight.detach(), 0.0)
    residual.encodings["fc1.weight"] = Masked(mask, Dense(weight.detach()))
    made, report = method_of(spec).apply(residual, spec, replace(context(), dataset=None))
    encoding = made.encodings["fc1.weight"]
    assert "fc1" in report.layers
    assert encoding.kinds == ("masked", spec.encodes)
    assert torch.equal(made.graph.get_parameter("fc1.weight").detach() != 0, (encoding.decode() != 0))
    assert not bool((encoding.decode()[~mask] != 0).any())
    # Zeros that the mask leaves out would draw a mean or a book towards them.
    kept = weight.detach()[mask]
    alone = error(replace_per(spec), kept.unsqueeze(0)).sum()
    found = (encoding.decode() - weight.detach()).double().square().sum()
    assert float(found) <= float(alone) * 1.001


def replace_per(spec: FewValues) -> FewValues:
    """What is no better than the spec: one scale or book for all."""
    return spec.model_copy(update={"per": "tensor"} if hasattr(spec, "per") else {"groups": 1})


def test_ternary_and_binary_are_the_best_there_are() -> None:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 7)
    for spec, codes in ((TernaryQuantization(), signs), (BinaryQuantization(), signs[(signs != 0).all(1)])):
        squares = codes.square().sum(1).clamp_min(1)
        # Of each row of codes the best scale leaves |w|² − (c·w)² / |c|².
        best = weight.square().sum(1) - ((weight @ codes.T).square() / squares).amax(1)
        assert torch.allclose(error(spec, weight).float(), best, atol=1e-5)


def test_scales_of_powers_are_at_least_as_good_as_a_search_over_many() -> None:
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(2)) * torch.tensor([[1e-4], [1], [30], [1e5]])
    for spec in (LogQuantization(bits=3), LogQuantization(bits=4), LogQuantization(bits=6, per_octave=4)):
        made = encode(spec, weight)
        largest = weight.abs().amax(1)
        tried = torch.stack(
            [(made.rescaled(weight, largest * share).decode() - weight).double().square().sum(1) for share in GRID]
        )
        assert bool((error(spec, weight) <= tried.amin(0) * 1.01).all())


GRID = torch.linspace(0.2, 1.6, 141).tolist()


def test_with_a_power_of_two_for_a_scale_all_values_are_powers_of_two() -> None:
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(3))
    values = encode(LogQuantization(bits=4, scale="power_of_two"), weight).decode().abs().unique()
    powers = torch.log2(values[values > 0])
    assert torch.equal(powers, powers.round())
    assert float(error(LogQuantization(bits=4), weight).sum()) < float(
        error(LogQuantization(bits=4, scale="power_of_two"), weight).sum()
    )


@every_spec
@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 6),
        torch.full((4, 6), -0.25),
        torch.tensor([[0.0] * 6, [1.0, 2, 3, 4, 5, 6], [1e-38] * 6, [3e38] * 6]),
        torch.tensor([[2.0]]),
        torch.tensor([[0.5, -0.5]]),
    ],
    ids=["zeros", "equal", "dead, tiny and huge channels", "one number", "two numbers"],
)
def test_odd_weights_give_finite_values_no_worse_than_zero(spec: FewValues, weight: Tensor) -> None:
    decoded = encode(spec, weight).decode()
    assert bool(torch.isfinite(decoded).all())
    assert float((decoded - weight).double().square().sum()) <= float(weight.double().square().sum()) * 1.000001 + 1e-30


def test_fewer_weights_than_values_make_a_smaller_book() -> None:
    weight = torch.tensor([[1.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    made = encode(CodebookQuantization(values=16), weight)
    assert isinstance(made, Codebook)
    assert made.name == "codebook of 3"
    assert torch.equal(made.decode(), weight)
    both = encode(CodebookQuantization(values=16, groups=2), weight)
    assert both.name == "2 codebooks of 3"
    assert torch.equal(both.decode(), weight)
    # 3 channels have no 2 groups.
    assert encode(CodebookQuantization(values=2, groups=2), weight.repeat(3, 1)[:3]).name == "codebook of 2"


def test_importance_moves_values_to_the_weights_that_count() -> None:
    weight = torch.linspace(-1, 1, 101).reshape(1, -1)
    importance = (weight.abs() > 0.9).float() * 99 + 1
    plain, weighted = (
        encode(CodebookQuantization(values=4), weight, None, given).decode() for given in (None, importance)
    )
    errors = [float(((decoded - weight).square() * importance).sum()) for decoded in (plain, weighted)]
    assert errors[1] < errors[0] / 2


def test_fisher_is_measured_on_samples_and_each_layer_gets_the_way_that_serves_best(
    residual: Network, context: MakeContext, images: Dataset
) -> None:
    plain, weighted = CodebookQuantization(values=4), CodebookQuantization(values=4, weighting="fisher", samples=24)
    yardstick = Yardstick(residual, images, split="validation", limit=256)
    one, _ = method_of(plain).apply(residual, plain, context())
    other, report = method_of(weighted).apply(residual, weighted, context())
    assert yardstick.score(other).loss < yardstick.score(one).loss
    assert set(report.plan["weightings"]) == set(other.encodings)
    again, repeated = method_of(weighted).apply(residual, weighted, replace(context(), recorded=report.plan))
    assert repeated.plan == report.plan
    assert all(torch.equal(tensor, again.graph.state_dict()[name]) for name, tensor in other.graph.state_dict().items())
    with pytest.raises(ModelpressError) as caught:
        method_of(weighted).apply(residual, weighted, replace(context(), dataset=None))
    assert caught.value.code == "missing_data"


def test_ways_to_weigh_errors() -> None:
    information = torch.tensor([[1.0, 4.0], [16.0, 0.0]])
    assert weigh_errors(information, "none") is None
    full, root, smoothed = (weigh_errors(information, kind) for kind in ("full", "root", "smoothed"))
    assert torch.allclose(full, information.double() + 0.01 * 21 / 4)
    assert torch.allclose(root, information.double().sqrt() + 0.01 * 7 / 4)
    # Rows have 2.5 and 8 on average, columns 8.5 and 2, all 5.25.
    expected = (information * torch.tensor([[2.5 * 8.5, 2.5 * 2], [8 * 8.5, 8 * 2]]) / 5.25).double().sqrt()
    assert torch.allclose(smoothed, expected + 0.01 * expected.mean())
    assert weigh_errors(torch.zeros(3, 2), "smoothed").tolist() == [[0.0, 0.0]] * 3
    assert weigh_errors(torch.ones(3), "smoothed").shape == (3,)


def test_first_and_last_can_stay_float_and_dry_run_and_method_agree(residual: Network, context: MakeContext) -> None:
    spec = TernaryQuantization(first_last="float", keep_float=("fc1",))
    made, report = method_of(spec).apply(residual, spec, replace(context(), dataset=None))
    described = ModelDescription.model_construct(mode="network", layers=describe(residual).layers)
    assert set(report.layers) == set(spec.requires(described).layers) == LAYERS - {"stem", "fc2", "fc1"}
    assert set(report.plan["kept_float"]) == {"stem", "fc2", "fc1"}
    assert set(made.encodings) == {f"{layer}.weight" for layer in report.layers}


def test_what_costs_more_than_the_limit_stays_float_and_a_replay_repeats_it(
    residual: Network, context: MakeContext, told: list[Message]
) -> None:
    spec = LogQuantization(bits=3)
    made, report = method_of(spec).apply(residual, spec, context(Constraints(max_drop=0.1)))
    assert 0 < len(report.layers) < len(LAYERS)
    assert [finding.code for finding in report.findings] == ["layers_kept_float"]
    assert set(report.sensitivities) == LAYERS
    metrics = [each for each in told if isinstance(each, MetricMessage) and each.name == "weight_sqnr"]
    assert {each.conditions["layer"] for each in metrics} == LAYERS
    again, repeated = method_of(spec).apply(residual, spec, replace(context(), recorded=report.plan))
    assert repeated.plan == report.plan
    assert all(torch.equal(one, again.graph.state_dict()[name]) for name, one in made.graph.state_dict().items())
    with pytest.raises(ModelpressError) as caught:
        method_of(spec).apply(residual, spec, replace(context(), recorded={"layers": 3}))
    assert caught.value.code == "invalid_request"


def test_what_would_not_get_smaller_stays_as_it_is(residual: Network, context: MakeContext) -> None:
    spec = CodebookQuantization(values=256)
    made, report = method_of(spec).apply(residual, spec, replace(context(), dataset=None))
    assert "fc2.weight" not in made.encodings
    assert "fc2" not in report.layers
    assert "fc2" in report.findings[0].text
    check_step(residual, made, report, (torch.randn(2, 3, 12, 12),))


def test_what_earlier_steps_left_in_16_bits_or_integers_is_encoded_anew(
    residual: Network, context: MakeContext
) -> None:
    layers = {"stem": lambda weight: Half.of(weight, dtype="float16"), "fc1": int4}
    encodings = {
        f"{path}.weight": make(residual.graph.get_parameter(f"{path}.weight")) for path, make in layers.items()
    }
    before = put_encodings(residual, encodings)
    for spec in (CodebookQuantization(values=4), BinaryQuantization()):
        made, report = method_of(spec).apply(before, spec, replace(context(), dataset=None))
        assert set(layers) <= set(report.layers)
        assert {made.encodings[name].kinds for name in encodings} == {(spec.encodes,)}
    binary = put_encodings(residual, {"fc1.weight": made.encodings["fc1.weight"]})
    _, report = method_of(CodebookQuantization()).apply(
        binary, CodebookQuantization(), replace(context(), dataset=None)
    )
    assert "fc1" in report.plan["kept_float"]


def int4(weight: Tensor) -> AffineInteger:
    return AffineInteger.of(weight, grid=packed_grid(4), axis=0)


def test_tied_tables_stay_and_others_are_encoded(attention_file: Path, context: MakeContext, tmp_path: Path) -> None:
    network = read(attention_file)
    text = np.random.default_rng(0).integers(0, 11, 900).astype(np.uint8)
    np.savez(tmp_path / "text.npz", a=text[:600], b=text[600:])
    spec = DatasetSpec(
        task="language_modelling", splits={"train": SplitArrays(x="a"), "evaluation": SplitArrays(x="b")}
    )
    data = open_dataset([tmp_path / "text.npz"], spec, network.inputs)
    asked = CodebookQuantization(values=4, weighting="fisher", samples=8)
    made, report = method_of(asked).apply(network, asked, replace(context(), dataset=data))
    assert set(report.layers) == {"qkv", "out", "mlp1", "mlp2"}
    assert any(name.startswith("head") for name in report.plan["kept_float"])
    check_step(network, made, report, probes(data))


class Words(nn.Module):
    """A table whose rows differ in size, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(300, 16), nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words(ids))


def test_tables_are_encoded(context: MakeContext, tmp_path: Path) -> None:
    spec = CodebookQuantization(values=5, groups=4)
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (4, 9))
    network = read(save(Words(), ids, tmp_path / "words.pt2"))
    made, report = method_of(spec).apply(network, spec, replace(context(), dataset=None))
    assert set(report.layers) == {"words", "head"}
    check_step(network, made, report, (ids,))
    export_onnx(made, tmp_path / "model.onnx", probes=(ids,))


def test_weights_that_are_no_numbers_are_refused(residual: Network, context: MakeContext) -> None:
    residual.graph.get_parameter("fc1.weight").data[0, 0] = float("nan")
    with pytest.raises(ModelpressError) as caught:
        method_of(TernaryQuantization()).apply(residual, TernaryQuantization(), replace(context(), dataset=None))
    assert caught.value.code == "non_finite"
    assert caught.value.layer == "fc1"
