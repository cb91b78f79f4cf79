"""Batches, changes of images, memory, the learning rate and its probe, each by itself."""

import math

import numpy as np
import pytest
import torch

from core.compression.train import probe
from core.compression.train.augmentation import Augmenter, image_inputs
from core.compression.train.feeding import Feeder
from core.compression.train.losses import TaskObjective
from core.compression.train.memory import choose_micro_batch
from core.compression.train.mount import TrainableNetwork
from core.compression.train.probe import RATES, choose_rate, probe_updates
from core.compression.train.state import state_of
from core.compression.train.updates import Learner, rate_at
from core.data.access import RandomAccess
from core.specs.train import Training


@pytest.fixture
def feeder(small, shapes):
    return Feeder(RandomAccess(shapes, "train"), ("x",), batch=32, seed=5, augmenter=Augmenter("none", (), 5))


def test_an_epoch_sees_each_sample_once_and_the_next_in_another_order(feeder):
    first, second = (torch.cat([feeder.batch(number).rows for number in range(start, start + 9)]) for start in (0, 9))
    assert len(first.unique()) == len(second.unique()) == 9 * 32
    assert not torch.equal(first, second)


def test_a_batch_depends_on_its_number_alone(feeder):
    later = feeder.batch(13)
    feeder.batch(2)
    assert torch.equal(feeder.batch(13).rows, later.rows)
    assert torch.equal(feeder.batch(13).inputs[0], later.inputs[0])


def test_samples_are_the_same_from_memory_and_from_their_file(shapes):
    rows = np.array([7, 3, 299, 3])
    kept, read = RandomAccess(shapes, "train").take(rows), RandomAccess(shapes, "train", kept_bytes=0).take(rows)
    assert torch.equal(kept.inputs["x"], read.inputs["x"])
    assert torch.equal(kept.labels, read.labels)
    assert torch.equal(kept.labels, torch.cat([each.labels for each in shapes.batches("train", 1000)])[rows])


def test_images_move_by_an_eighth_at_most_and_flip_when_asked():
    images = torch.zeros(64, 1, 16, 16)
    images[:, :, 8, 5] = 1
    moved = Augmenter("shift", ("x",), 0).apply({"x": images, "mask": images}, 3)
    assert torch.equal(moved["mask"], images)
    places = moved["x"].nonzero()[:, 2:]
    assert len(places) == 64
    assert (places - torch.tensor([8, 5])).abs().max() == 2
    assert set(places[:, 1].tolist()) == {3, 4, 5, 6, 7}
    flipped = Augmenter("shift_flip", ("x",), 0).apply({"x": images}, 3)["x"].nonzero()[:, 3]
    assert 16 < int((flipped > 7).sum()) < 48
    again = Augmenter("shift", ("x",), 0).apply({"x": images}, 3)
    assert torch.equal(again["x"], moved["x"])
    assert not torch.equal(Augmenter("shift", ("x",), 0).apply({"x": images}, 4)["x"], moved["x"])


def test_edges_are_repeated_outwards():
    images = torch.full((8, 3, 8, 8), -0.7)
    assert torch.equal(Augmenter("shift", ("x",), 1).apply({"x": images}, 0)["x"], images)


def test_images_are_known_by_their_shape(shapes):
    assert image_inputs(shapes) == ("x",)


def test_parts_of_a_batch_fit_the_memory(small, feeder):
    mounted, objective, batch = TrainableNetwork(small), TaskObjective("classification"), feeder.batch(0)
    assert choose_micro_batch(mounted, objective, batch, free=10**9) == 32
    # Of one sample at least the outputs of convolution, norm and sum are kept, 6·64 numbers each.
    sizes = [choose_micro_batch(mounted, objective, batch, free=free) for free in (200_000, 50_000, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] <= 50_000 * 0.4 / (3 * 6 * 64 * 4)
    assert sizes[2] == 1


def test_the_rate_rises_and_falls():
    settings = Training(warm_up=0.1)
    rates = [rate_at(update, 100, settings) for update in range(100)]
    assert rates.index(max(rates)) == 10
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rate_at(99, 100, Training(schedule="constant")) == 1


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_probe_takes_the_best_of_its_trials_and_leaves_no_trace(small, feeder, optimiser):
    learner = Learner(
        TrainableNetwork(small), TaskObjective("classification"), Training(optimiser=optimiser), micro_batch=32
    )
    learner.mounted.follow_batches(follow=True)
    before = state_of(learner)
    told: list[int] = []
    probed = choose_rate(learner, feeder, 12, lambda: told.append(1))
    losses = dict(probed.tried)
    assert losses[probed.rate] == min(losses.values())
    assert len(losses) > 1
    # A step can be stopped before each update.
    assert len(told) == 12 * len(losses)
    # It went as far as that was better: the next rate was tried, or there is none.
    rates = RATES[optimiser]
    tried = [rates.index(rate) for rate in losses]
    assert tried == list(range(tried[0], tried[-1] + 1))
    assert tried[-1] == len(rates) - 1 or losses[rates[tried[-1]]] > losses[probed.rate] or tried[0] == 0
    after = state_of(learner)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_network_that_is_spoilt_by_large_rates_gets_a_small_one(small, shapes):
    # A product whose weights are small and whose inputs are large: a step of the usual size throws the answers about.
    with torch.no_grad():
        small.graph.get_submodule("conv").weight.mul_(1e4)
        small.graph.get_submodule("fc").weight.mul_(1e-4)
    feeder = Feeder(RandomAccess(shapes, "train"), ("x",), batch=32, seed=5, augmenter=Augmenter("none", (), 5))
    learner = Learner(TrainableNetwork(small), TaskObjective("classification"), Training(), micro_batch=32)
    assert choose_rate(learner, feeder, 12, lambda: None).rate < 1e-3


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ((0.1, 0.5, math.inf, math.inf, math.inf, math.inf), 3e-5),
        ((0.9, 0.2, 0.5, 60, 50, math.inf), 1e-4),
        ((5, 6, 20, 60, 50, math.inf), 3e-5),
        ((math.inf,) * 6, 3e-5),
        ((0.9, 0.9, 0.5, 0.4, 0.3, math.inf), 3e-3),
    ],
)
def test_rates_that_spoil_a_network_are_left_behind(small, feeder, monkeypatch, losses, chosen):
    by_rate = dict(zip(RATES["adamw"], losses, strict=True))
    monkeypatch.setattr(probe, "_try", lambda *given: by_rate[given[2]])
    monkeypatch.setattr(probe, "_judge", lambda *given: 1.0)
    learner = Learner(TrainableNetwork(small), TaskObjective("classification"), Training(), micro_batch=32)
    assert choose_rate(learner, feeder, 12, lambda: None).rate == chosen


def test_trials_take_a_twentieth_and_more_only_where_that_tells_nothing():
    assert probe_updates(200) == 0
    for steps in (300, 434, 1000, 1500, 10_000):
        cost = 4 * (probe_updates(steps) + 4 / 3)
        assert 0 < cost <= steps * (0.05 if steps >= 1400 else 0.15)
    assert probe_updates(434) == 14
