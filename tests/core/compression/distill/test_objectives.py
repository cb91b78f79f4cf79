"""What a student is asked to learn: answers and inner values of teachers, remembered where there is room."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.compression.distill import softened
from core.compression.distill.answers import AnswerLoss, AnswerObjective, Comparison
from core.compression.distill.features import FeatureObjective, watched_of
from core.compression.distill.padding import find_mask
from core.compression.distill.pairing import Pairing, find_cuts, pair_by_depth, pair_by_name
from core.compression.distill.teachers import Teachers
from core.compression.logits import logits_of
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Answers, TrainingBatch
from core.data.dataset import Dataset
from core.data.splits import Split
from core.data.wiring import Samples
from core.errors import ModelpressError
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from tests.core.compression.conftest import SHAPE, save


def six_samples() -> Dataset:
    samples = Samples({}, None)
    split = Split(samples, np.arange(6))
    return Dataset("classification", (), 4, {"train": split, "validation": split}, {})


SIX = six_samples()


def batch(*, labelled: bool = True, rows: int = 6, **changes: object) -> TrainingBatch:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(rows) % 4 if labelled else None
    made = TrainingBatch((torch.randn(rows, *SHAPE, generator=generator),), labels, torch.arange(rows))
    return replace(made, **changes)


def counted(teachers: Teachers) -> list[int]:
    runs = [0]

    def note(*_: object) -> None:
        runs[0] += 1

    for mounted in teachers._mounted:
        mounted.register_forward_hook(note)
    return runs


@pytest.fixture
def attention(attention_file) -> Network:
    return fold_batch_norm(read(attention_file))


class TestTeachers:
    def test_answers_are_remembered_by_row(self, residual):
        said: list[str] = []
        teachers = Teachers([residual], dataset=SIX, log=said.append)
        runs = counted(teachers)
        first = teachers.ask(batch())[0].outputs[0]
        again = teachers.ask(batch())[0].outputs[0]
        some = torch.tensor([4, 1])
        part = teachers.ask(replace(batch(), inputs=(batch().inputs[0][some],), rows=some))[0].outputs[0]
        assert runs == [1]
        assert torch.equal(first, again)
        assert torch.equal(part, first[some])
        assert "remembered" in said[0]

    def test_changed_inputs_are_answered_anew(self, residual):
        teachers = Teachers([residual], dataset=SIX)
        runs = counted(teachers)
        for _ in range(2):
            teachers.ask(batch(augmented=True))
        assert runs == [2]

    def test_splits_are_told_apart(self, residual):
        teachers = Teachers([residual], dataset=SIX)
        runs = counted(teachers)
        other = replace(batch(split="validation"), inputs=(torch.zeros(6, *SHAPE),))
        one, two = teachers.ask(batch())[0].outputs[0], teachers.ask(other)[0].outputs[0]
        assert not torch.equal(one, two)
        assert torch.equal(teachers.ask(batch())[0].outputs[0], one)
        assert runs == [2]

    def test_what_takes_too_much_memory_is_computed_anew(self, residual):
        said: list[str] = []
        teachers = Teachers([residual], dataset=SIX, log=said.append, remembered_bytes=6 * 4 * 4 - 1)
        runs = counted(teachers)
        for _ in range(2):
            teachers.ask(batch())
        assert runs == [2]
        assert len(said) == 1
        assert "anew" in said[0]

    def test_inner_values_are_remembered_too(self, residual):
        cut = find_cuts(residual)[0].node
        teachers = Teachers([residual], (cut,), dataset=SIX)
        first, again = (teachers.ask(batch())[0].watched[cut] for _ in range(2))
        assert torch.equal(first, again)


class TestAnswers:
    def objective(self, network: Network, comparison: Comparison, weights: tuple[float, float]) -> AnswerObjective:
        loss = AnswerLoss(comparison, "classification", weights, smoothing=0.0, student=network)
        return AnswerObjective(Teachers([network], dataset=SIX), loss)

    def test_is_the_weighted_sum(self, residual):
        given = batch()
        said = residual.graph(*given.inputs).detach()
        found = torch.randn(6, 4)
        loss = self.objective(residual, Comparison("hinton", 2.0), (0.3, 0.7))(Answers((found,), {}), given)
        wanted = 0.3 * F.cross_entropy(found, given.labels)
        wanted += 0.7 * softened.hinton(found, softened.soften([said], 2.0), 2.0)
        assert torch.allclose(loss, wanted)

    @pytest.mark.parametrize("kind", ["hinton", "dkd", "dist"])
    def test_a_student_without_labels_learns_from_the_teacher_alone(self, residual, kind):
        given = batch(labelled=False)
        said = residual.graph(*given.inputs).detach()
        objective = self.objective(residual, Comparison(kind), (1.0, 1.0))
        assert float(objective(Answers((said,), {}), given)) == pytest.approx(0, abs=1e-4)
        assert float(objective(Answers((-said,), {}), given)) > 0.01

    def test_nothing_of_the_teacher_is_trained_or_kept(self, residual):
        objective = self.objective(residual, Comparison(), (1.0, 1.0))
        assert list(objective.parameters()) == []
        assert objective.state_dict() == {}

    @pytest.mark.parametrize("kind", ["hinton", "dkd"])
    def test_samples_weigh_alike_however_many_of_their_tokens_are_judged(self, kind):
        found, said = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
        labels = torch.tensor([[1, -100, -100], [2, 3, -100]])
        compare = Comparison(kind, 2.0).for_task("token_classification")
        each = [
            compare(found[row, :count, None], [said[row, :count, None]], labels[row, :count, None], None)
            for row, count in enumerate((1, 2))
        ]
        whole = compare(found, [said], labels, labels != -100)
        assert torch.allclose(whole, sum(each) / 2)
        # So parts of a batch add up to the whole.
        parts = [compare(found[[row]], [said[[row]]], labels[[row]], labels[[row]] != -100) for row in range(2)]
        assert torch.allclose(whole, sum(parts) / 2)
        assert float(compare(found, [said], labels, torch.zeros(2, 3, dtype=torch.bool))) == 0

    def test_padding_says_nothing_where_there_are_no_labels(self, attention):
        tokens = torch.tensor([[5, 7, 0, 0], [1, 2, 3, 4]])
        given = TrainingBatch((tokens, tokens.clamp_max(1)), None, torch.arange(2))
        masked = replace(
            attention, inputs=(attention.inputs[0], attention.inputs[0].model_copy(update={"name": "mask"}))
        )
        assert find_mask(attention) is None
        assert find_mask(masked) == 1
        loss = AnswerLoss(Comparison("hinton", 2.0), "language_modelling", (0, 1.0), smoothing=0.0, student=masked)
        found, said = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
        changed = torch.where((tokens > 0)[..., None], said, torch.randn(2, 4, 6))
        one, other = (loss.measure(Answers((found,), {}), given, [each]) for each in (said, changed))
        assert torch.equal(one, other)
        assert float(one) > 0

    def test_numbers_are_compared_with_the_mean_of_the_teachers(self):
        compare = Comparison().for_task("regression")
        found, said = torch.tensor([[1.0]]), [torch.tensor([[2.0]]), torch.tensor([[4.0]])]
        assert float(compare(found, said, None, None)) == pytest.approx(4.0)


class TestPairing:
    def test_all_passes_through_every_cut(self, residual):
        nodes = [place.node for place in find_cuts(residual)]
        shapes = {place.node: place.shape for place in find_cuts(residual)}
        # A convolution inside of a block has the shortcut beside it.
        assert not any("one_conv1" in node or "two_conv2" in node for node in nodes)
        assert shapes[nodes[0]] == (8, 12, 12)
        assert shapes[nodes[-1]] == (24,)

    def test_the_last_place_of_each_resolution_is_paired(self, residual):
        pairs = pair_by_depth(residual, residual, flat=False)
        assert [pairing.student.shape for pairing in pairs] == [(8, 12, 12), (16, 6, 6), (16, 3, 3)]
        assert all(pairing.student == pairing.teacher for pairing in pairs)

    def test_transformers_are_paired_at_even_depths(self, attention):
        pairs = pair_by_depth(attention, attention, flat=False)
        assert 1 <= len(pairs) <= 4
        assert all(len(pairing.student.shape) == 2 for pairing in pairs)

    def test_networks_without_a_common_resolution_are_refused(self, residual, attention):
        with pytest.raises(ModelpressError, match="no resolution in common"):
            pair_by_depth(residual, attention, flat=False)

    def test_layers_are_paired_by_name(self, residual):
        (pairing,) = pair_by_name(residual, residual, ("one.conv1=two.conv2",))
        assert (pairing.student.shape, pairing.teacher.shape) == ((8, 12, 12), (16, 6, 6))
        with pytest.raises(ModelpressError, match="nonsense"):
            pair_by_name(residual, residual, ("nonsense=two.conv2",))


class TestFeatures:
    def objective(self, network: Network, kind: str, pairings: tuple[Pairing, ...]) -> FeatureObjective:
        teachers = Teachers([network], watched_of(pairings), dataset=SIX)
        answers = AnswerLoss(Comparison(), "classification", (0.0, 0.0), smoothing=0.0, student=network)
        return FeatureObjective(teachers, pairings, kind, weight=1.0, answers=answers)

    @pytest.mark.parametrize("kind", ["hint", "attention", "relational"])
    def test_a_network_is_no_distance_from_itself(self, residual, kind):
        pairings = pair_by_depth(residual, residual, flat=False)
        objective = self.objective(residual, kind, pairings)
        mounted = TrainableNetwork(residual, objective.watched)
        assert float(objective(mounted(*batch().inputs), batch()).detach()) == pytest.approx(0, abs=1e-4)

    def test_adapters_bring_channels_and_sizes_together_and_learn(self, residual):
        pairings = pair_by_name(residual, residual, ("one.conv1=two.conv2", "fc2=fc1"))
        objective = self.objective(residual, "hint", pairings)
        mounted = TrainableNetwork(residual, objective.watched)
        objective(mounted(*batch().inputs), batch()).backward()
        sizes = [tuple(parameter.shape) for parameter in objective.parameters()]
        assert sizes == [(16, 8, 1, 1), (24, 4)]
        assert all(bool(parameter.grad.abs().sum() > 0) for parameter in objective.parameters())

    @pytest.mark.parametrize("kind", ["hint", "attention"])
    def test_padding_has_no_inner_values(self, attention, kind):
        tokens = torch.tensor([[5, 7, 0, 0], [1, 2, 3, 4]])
        masked = replace(
            attention, inputs=(attention.inputs[0], attention.inputs[0].model_copy(update={"name": "mask"}))
        )
        pairings = pair_by_depth(attention, attention, flat=False)[:1]
        teachers = Teachers([attention], watched_of(pairings), dataset=SIX)
        answers = AnswerLoss(Comparison(), "classification", (0.0, 0.0), smoothing=0.0, student=masked)
        objective = FeatureObjective(teachers, pairings, kind, weight=1.0, answers=answers)
        (node,) = objective.watched
        told = teachers.ask(TrainingBatch((tokens,), None, torch.arange(2)))[0].watched[node]
        given = TrainingBatch((tokens, tokens.clamp_max(1)), None, torch.arange(2))
        found = torch.where((tokens > 0)[..., None], told, 7.0)
        outputs = (torch.zeros(2, 4, 11),)
        assert float(objective(Answers(outputs, {node: found}), given)) == pytest.approx(0, abs=1e-6)
        # A mean over real tokens, each sample alike.
        if kind == "hint":
            loss = float(objective(Answers(outputs, {node: told + 1}), given))
            assert loss == pytest.approx(0.5, rel=1e-4)

    def test_shapes_that_cannot_be_compared_are_named(self, residual):
        pairings = pair_by_name(residual, residual, ("one.conv1=fc1",))
        with pytest.raises(ModelpressError, match=r"8×12×12.*24"):
            self.objective(residual, "hint", pairings)


class Signal(nn.Module):
    """Convolutions along one axis, halved in length, then tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 3, padding=1)
        self.mix = nn.Linear(channels, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool1d(torch.relu(self.first(x)), 2)
        x = torch.relu(self.second(x)).transpose(1, 2)
        return self.last(torch.relu(self.mix(x)).mean(1))


class TestSignals:
    @pytest.fixture
    def sides(self, tmp_path) -> tuple[Network, Network]:
        example = torch.randn(2, 2, 16)
        student, teacher = (read(save(Signal(size), example, tmp_path / f"{size}.pt2")) for size in (3, 5))
        return student, teacher

    def test_lengths_are_places_until_axes_are_swapped(self, sides):
        student, _ = sides
        places = {(place.shape, place.resolution, place.channels) for place in find_cuts(student)}
        assert ((3, 16), (16,), 3) in places
        assert ((3, 8), (8,), 3) in places
        assert ((8, 6), (0,), 6) in places
        assert {shape for shape, resolution, _ in places if resolution == (0,)} == {(8, 3), (8, 6)}

    @pytest.mark.parametrize("kind", ["hint", "attention"])
    def test_the_channels_are_compared_place_by_place(self, sides, kind):
        student, teacher = sides
        x = torch.randn(6, 2, 16)
        given = TrainingBatch((x,), None, torch.arange(6))
        pairings = pair_by_name(student, teacher, ("first=first", "second=first"))
        objective = TestFeatures().objective(teacher, kind, pairings)
        mounted = TrainableNetwork(student, objective.watched)
        loss = float(objective(mounted(x), given).detach())
        if kind == "hint":
            assert [tuple(each.shape) for each in objective.parameters()] == [(5, 3, 1), (5, 3, 1)]
            return
        with torch.no_grad():
            wanted = teacher.graph.get_submodule("first")(x)
            first = student.graph.get_submodule("first")(x)
            second = student.graph.get_submodule("second")(torch.max_pool1d(first.relu(), 2))
        maps = [value.square().sum(1) for value in (first, wanted, second, wanted.unflatten(2, (8, 2)).mean(3))]
        one, other, two, halved = (F.normalize(each, dim=1) for each in maps)
        distance = ((one - other).square().sum(1).mean() + (two - halved).square().sum(1).mean()) / 2
        assert loss == pytest.approx(float(distance), rel=1e-4)


class Softmaxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.fc(x), 1)


class TestLogits:
    def test_probabilities_are_compared_as_the_logits_they_were_made_of(self, tmp_path):
        torch.manual_seed(0)
        module = Softmaxed()
        network = read(save(module, torch.randn(2, 6), tmp_path / "softmax.pt2"))
        x = 5 * torch.randn(6, 6)
        given = TrainingBatch((x,), torch.arange(6) % 4, torch.arange(6))
        told = TestAnswers().objective(network, Comparison("hinton", 4.0), (1.0, 1.0))
        found = torch.randn(6, 4)
        loss = told(Answers((found.softmax(1),), {}), given)
        wanted = F.cross_entropy(found, given.labels)
        wanted += softened.hinton(found, softened.soften([module.fc(x).detach()], 4.0), 4.0)
        assert torch.allclose(loss, wanted, rtol=1e-4)
        # Where the outputs are no classes, they are what they are.
        assert torch.equal(logits_of(network, "regression")(found), found)

    def test_a_change_of_shape_after_the_softmax_hides_nothing(self, tmp_path):
        class Flattened(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 12)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.conv(x).softmax(1).flatten(1)

        x = torch.randn(2, *SHAPE)
        network = read(save(Flattened(), x, tmp_path / "flattened.pt2"))
        found = network.graph(x)
        assert torch.allclose(logits_of(network, "classification")(found), found.log())
