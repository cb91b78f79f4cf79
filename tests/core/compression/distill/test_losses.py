"""The losses of distillation against values worked out by hand or by another formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.compression.distill import inner, softened


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), 3 * torch.randn(6, 5, generator=generator)


def probabilities(logits: torch.Tensor, temperature: float) -> np.ndarray:
    powers = np.exp(logits.double().numpy() / temperature)
    return powers / powers.sum(1, keepdims=True)


class TestSoften:
    def test_teachers_are_averaged_as_probabilities(self, logits):
        one, other = logits
        wanted = (probabilities(one, 2.0) + probabilities(other, 2.0)) / 2
        assert np.allclose(softened.soften([one, other], 2.0).exp().numpy(), wanted, atol=1e-6)

    def test_one_teacher_is_its_own_softmax(self, logits):
        assert torch.equal(softened.soften([logits[0]], 4.0), (logits[0] / 4).log_softmax(-1))

    def test_classes_that_stand_alone_are_averaged_one_by_one(self, logits):
        one, other = logits
        wanted = (1 / (1 + np.exp(-one.numpy())) + 1 / (1 + np.exp(-other.numpy()))) / 2
        assert np.allclose(softened.soften_each([one, other]).numpy(), wanted, atol=1e-6)


class TestHinton:
    def test_is_the_formula(self, logits):
        student, teacher = logits
        p, q = probabilities(teacher, 4.0), probabilities(student, 4.0)
        wanted = 16 * (p * np.log(p / q)).sum(1).mean()
        assert float(softened.hinton(student, softened.soften([teacher], 4.0), 4.0)) == pytest.approx(wanted, rel=1e-5)

    def test_two_classes_by_hand(self):
        # At T = 1 with logits (ln 3, 0) the teacher says (¾, ¼), a student of zeros (½, ½).
        teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
        wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        assert float(softened.hinton(student, softened.soften([teacher], 1.0), 1.0)) == pytest.approx(wanted, rel=1e-6)

    def test_high_temperatures_match_centred_logits(self, logits):
        # For T → ∞ the loss is ½/classes · ‖centred difference‖² of each sample (arXiv 1503.02531, equation 4).
        student, teacher = (each.double() for each in logits)
        centred = [each - each.mean(1, keepdim=True) for each in (student, teacher)]
        wanted = float((centred[0] - centred[1]).square().sum(1).mean()) / (2 * 5)
        found = float(softened.hinton(student, softened.soften([teacher], 1e4), 1e4))
        assert found == pytest.approx(wanted, rel=1e-3)

    def test_a_teacher_that_is_certain_gives_no_nan(self):
        teacher, student = torch.tensor([[500.0, 0.0, -500.0]]), torch.zeros(1, 3, requires_grad=True)
        loss = softened.hinton(student, softened.soften([teacher], 1.0), 1.0)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(math.log(3))
        assert torch.isfinite(student.grad).all()


class TestDecoupled:
    def test_with_the_teachers_own_weight_it_is_hintons(self, logits):
        # arXiv 2203.08679, equation 5: KD = TCKD + (1 − p_target) · NCKD, for each sample.
        student, teacher = logits
        target = torch.tensor([0, 1, 2, 3, 4, 0])
        for row in range(len(student)):
            one, other, chosen = student[row : row + 1], teacher[row : row + 1], target[row : row + 1]
            wanted = softened.soften([other], 2.0)
            rest = 1 - float(wanted.exp()[0, chosen])
            found = softened.decoupled(one, wanted, softened.Decoupling(chosen, rest), 2.0)
            assert float(found) == pytest.approx(float(softened.hinton(one, wanted, 2.0)), rel=1e-4)

    def test_the_rest_of_a_certain_teacher_still_counts(self):
        # The target has all but e⁻³⁰ of the probability; what is told of the others is (¾, ¼) all the same.
        teacher = torch.tensor([[40.0, math.log(3), 0.0]])
        student = torch.tensor([[40.0, 0.0, 0.0]])
        asked = softened.Decoupling(torch.tensor([0]), 8.0)
        found = softened.decoupled(student, softened.soften([teacher], 1.0), asked, 1.0)
        wanted = 8 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
        assert float(found) == pytest.approx(wanted, rel=1e-4)

    def test_is_zero_for_equal_answers(self, logits):
        teacher = logits[1]
        target = teacher.argmax(1)
        found = softened.decoupled(teacher, softened.soften([teacher], 4.0), softened.Decoupling(target, 8.0), 4.0)
        assert float(found) == pytest.approx(0, abs=1e-5)


class TestCorrelation:
    def test_is_the_formula(self, logits):
        student, teacher = logits
        p, q = probabilities(teacher, 4.0), probabilities(student, 4.0)
        inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
        intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
        found = softened.correlation(student, softened.soften([teacher], 4.0), 4.0)
        assert float(found) == pytest.approx(16 * (inter + intra), rel=1e-4)

    def test_one_sample_has_no_relation_to_others(self, logits):
        student, teacher = (each[:1] for each in logits)
        p, q = probabilities(teacher, 1.0)[0], probabilities(student, 1.0)[0]
        found = softened.correlation(student, softened.soften([teacher], 1.0), 1.0)
        assert float(found) == pytest.approx(1 - np.corrcoef(p, q)[0, 1], rel=1e-4)

    def test_a_row_of_twice_the_share_is_as_two(self, logits):
        student, teacher = logits
        wanted = softened.soften([teacher], 4.0)
        twice = [torch.cat([each, each[:1]]) for each in (student, wanted)]
        shares = torch.tensor([2.0, 1, 1, 1, 1, 1]) / 7
        found = softened.correlation(student, wanted, 4.0, shares)
        assert float(found) == pytest.approx(float(softened.correlation(*twice, 4.0)), rel=1e-4)

    def test_a_student_that_says_the_same_of_all_learns(self, logits):
        student = torch.zeros(6, 5, requires_grad=True)
        loss = softened.correlation(student, softened.soften([logits[1]], 1.0), 1.0)
        loss.backward()
        assert torch.isfinite(student.grad).all()
        assert float(student.grad.abs().sum()) > 0


def test_hinton_of_each_is_the_formula(logits):
    student, teacher = logits
    p, q = torch.sigmoid(teacher).double().numpy(), torch.sigmoid(student).double().numpy()
    wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert float(softened.hinton_of_each(student, softened.soften_each([teacher]))) == pytest.approx(wanted, rel=1e-4)


class TestHint:
    def test_is_half_the_mean_square(self):
        found, wanted = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
        assert float(inner.hint(found, wanted)) == pytest.approx((1 + 4) / 4)


class TestAttention:
    def test_by_hand(self):
        # Maps (9 + 16, 0) and (4, 3): of length 1 they are (1, 0) and (0.8, 0.6).
        found = torch.tensor([3.0, 0.0, 4.0, 0.0]).reshape(1, 2, 1, 2)
        wanted = torch.tensor([2.0, math.sqrt(3)]).reshape(1, 1, 1, 2)
        assert float(inner.attention(found, wanted)) == pytest.approx(0.2**2 + 0.6**2, rel=1e-5)

    def test_a_map_has_a_value_for_each_place(self):
        value = torch.randn(2, 7, 3)
        assert torch.allclose(inner.attention_map(value), value.square().sum(1))
        assert inner.attention_map(torch.randn(2, 3, 4, 5)).shape == (2, 20)

    def test_a_dead_layer_gives_no_nan(self):
        found = torch.zeros(2, 3, 4, 4, requires_grad=True)
        inner.attention(found, torch.rand(2, 5, 4, 4)).backward()
        assert torch.isfinite(found.grad).all()


class TestRelations:
    def test_is_the_formula(self):
        generator = torch.Generator().manual_seed(1)
        found, wanted = torch.randn(5, 3, generator=generator), torch.randn(5, 2, 4, generator=generator)
        triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5) if len({i, j, k}) == 3]
        parts = []
        for value in (found.double().numpy(), wanted.flatten(1).double().numpy()):
            lengths = np.array([np.linalg.norm(value[i] - value[j]) for i in range(5) for j in range(i + 1, 5)])
            cosines = [
                (value[i] - value[j])
                @ (value[k] - value[j])
                / np.linalg.norm(value[i] - value[j])
                / np.linalg.norm(value[k] - value[j])
                for i, j, k in triples
            ]
            parts.append((lengths / lengths.mean(), np.array(cosines)))
        distances, angles = (
            float(F.smooth_l1_loss(torch.tensor(one), torch.tensor(other))) for one, other in zip(*parts, strict=True)
        )
        assert float(inner.relations(found, wanted)) == pytest.approx(25 * distances + 50 * angles, rel=1e-4)

    def test_turning_and_scaling_change_nothing(self):
        value = torch.randn(6, 4)
        turn = torch.linalg.qr(torch.randn(4, 4)).Q
        assert float(inner.relations(3 * value @ turn, value)) == pytest.approx(0, abs=1e-4)

    @pytest.mark.parametrize("samples", [1, 2, 3])
    def test_equal_samples_give_no_nan(self, samples):
        found = torch.ones(samples, 4, requires_grad=True)
        loss = inner.relations(found, torch.randn(samples, 3))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(found.grad).all()
