"""The trainer learns, keeps the best, tells its curves, and resumes and replays to the same bits."""

import hashlib

import pytest
import torch

from core.compression.train.losses import TaskObjective
from core.compression.train.trainer import train
from core.errors import ModelpressError
from core.messages import MetricMessage
from core.specs.train import Training

from .conftest import KilledError, Memory

QUICK = Training(epochs=3, batch_size=32, lr=0.01, augment="none")


def fingerprint(network):
    digest = hashlib.sha256()
    for name, tensor in sorted(network.graph.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def accuracy(network, dataset, split="evaluation"):
    (batch,) = dataset.batches(split, 1000)
    with torch.no_grad():
        return float((network.graph(*batch.inputs.values()).argmax(1) == batch.labels).float().mean())


def learn(network, dataset, context, settings=QUICK):
    return train(network, TaskObjective("classification"), dataset, settings, context)


def test_it_learns_and_leaves_what_it_was_given(small, shapes, context):
    before = fingerprint(small)
    trained = learn(small, shapes, context(shapes), QUICK.model_copy(update={"epochs": 8}))
    assert accuracy(trained.network, shapes) > 0.9 > accuracy(small, shapes)
    assert fingerprint(small) == before
    assert trained.layers == ("conv", "fc", "norm")
    assert not trained.network.graph.training


def test_the_same_seed_gives_the_same_bits_and_another_others(small, shapes, context):
    first, second = (learn(small, shapes, context(shapes)) for _ in range(2))
    assert fingerprint(first.network) == fingerprint(second.network)
    assert fingerprint(learn(small, shapes, context(shapes, seed=1)).network) != fingerprint(first.network)


@pytest.mark.parametrize(
    "settings",
    [
        QUICK,
        QUICK.model_copy(update={"ema": 0.9, "optimiser": "sgd", "augment": "shift_flip", "label_smoothing": 0.1}),
        QUICK.model_copy(update={"epochs": 15, "lr": "auto", "early_stopping": 4}),
    ],
    ids=["adamw", "sgd with mean", "probe and early end"],
)
def test_an_interrupted_training_goes_on_to_the_same_bits(small, shapes, context, settings, monkeypatch):
    monkeypatch.setattr("core.compression.train.probe.FEWEST", 4)
    wanted = learn(small, shapes, context(shapes), settings)
    memory = Memory(every=3)
    for last in (2, 5, 11, 4):
        memory = memory.again(last)
        with pytest.raises(KilledError):
            learn(small, shapes, context(shapes, memory), settings)
    found = learn(small, shapes, context(shapes, memory.again()), settings)
    assert fingerprint(found.network) == fingerprint(wanted.network)
    assert found.record == wanted.record


def test_a_record_is_followed_instead_of_probe_and_clock(small, shapes, context):
    settings = QUICK.model_copy(update={"epochs": None, "minutes": 0.02, "lr": "auto"})
    first = learn(small, shapes, context(shapes), settings)
    again = learn(small, shapes, context(shapes, recorded={"training": first.record}), settings)
    assert again.record == first.record
    assert fingerprint(again.network) == fingerprint(first.network)


def test_minutes_end_a_training(small, shapes, context):
    settings = QUICK.model_copy(update={"epochs": 9000, "minutes": 0.01})
    trained = learn(small, shapes, context(shapes), settings)
    assert 0 < trained.record["steps_done"] < 9000 * 9


def test_curves_are_told(small, shapes, context, told):
    learn(small, shapes, context(shapes))
    rows = [each for each in told if isinstance(each, MetricMessage)]
    curves = {(row.name, row.split) for row in rows}
    assert curves == {("loss", "train"), ("lr", None), ("loss", "validation"), ("quality", "validation")}
    epochs = [row.at for row in rows if row.name == "quality"]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 3.0
    losses = [row.value for row in rows if (row.name, row.split) == ("loss", "train")]
    assert losses[-1] < losses[0] / 2


def test_weights_from_before_are_kept_when_training_only_harms(small, shapes, context):
    good = learn(small, shapes, context(shapes)).network
    settings = QUICK.model_copy(update={"steps": 12, "lr": 3.0, "clip": 0, "schedule": "constant"})
    trained = learn(good, shapes, context(shapes), settings)
    assert fingerprint(trained.network) == fingerprint(good)
    assert trained.layers == ()
    assert [finding.code for finding in trained.findings] == ["training_did_not_help"]


def test_early_stopping_counts_judgements_without_a_better_one(small, shapes, context):
    settings = QUICK.model_copy(update={"epochs": 50, "lr": 1e-7, "early_stopping": 2})
    trained = learn(learn(small, shapes, context(shapes)).network, shapes, context(shapes), settings)
    assert trained.record["steps_done"] < 50 * 9


def test_parts_of_a_batch_add_up_to_the_whole(small, shapes, context, monkeypatch):
    settings = QUICK.model_copy(update={"steps": 1, "batch_norm": "frozen", "optimiser": "sgd", "warm_up": 0.0})
    whole = learn(small, shapes, context(shapes), settings)
    monkeypatch.setattr("core.compression.train.budget.choose_micro_batch", lambda *_: 8)
    parts = learn(small, shapes, context(shapes), settings)
    assert parts.record["micro_batch"] == 8
    for one, other in zip(whole.network.graph.parameters(), parts.network.graph.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_frozen_batch_norms_keep_their_statistics(small, shapes, context):
    frozen = learn(small, shapes, context(shapes), QUICK.model_copy(update={"batch_norm": "frozen"}))
    followed = learn(small, shapes, context(shapes))
    mean = small.graph.get_buffer("norm.running_mean")
    assert torch.equal(frozen.network.graph.get_buffer("norm.running_mean"), mean)
    assert not torch.equal(followed.network.graph.get_buffer("norm.running_mean"), mean)


def test_a_loss_that_is_no_number_ends_in_a_typed_error(small, shapes, context):
    settings = QUICK.model_copy(update={"lr": 10.0, "optimiser": "sgd", "clip": 0, "epochs": 50})
    bad = TaskObjective("classification")
    real = bad._loss
    bad._loss = lambda found, labels, smoothing: real(found, labels, smoothing) * found.exp().exp().mean()
    with pytest.raises(ModelpressError) as caught:
        train(small, bad, shapes, settings, context(shapes))
    assert caught.value.code == "training_diverged"
