import torch

from core.data.synthetic import synthesise
from core.description import TensorDescription

INPUTS = (
    TensorDescription(name="image", dtype="float16", shape=("batch", 3, 8, 8)),
    TensorDescription(name="input_ids", dtype="int64", shape=("batch", "sequence")),
    TensorDescription(name="attention_mask", dtype="int64", shape=("batch", "sequence")),
    TensorDescription(name="flag", dtype="bool", shape=("batch",)),
)


def draw(seed):
    dataset = synthesise(INPUTS, {"input_ids": 50}, seed, sizes={"sequence": 32})
    return dataset, next(dataset.batches("evaluation", 64)).inputs


def test_inputs_have_the_shapes_and_ranges_of_the_network():
    dataset, inputs = draw(0)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in inputs.items()} == {
        "image": (torch.float32, (64, 3, 8, 8)),
        "input_ids": (torch.int64, (64, 32)),
        "attention_mask": (torch.int64, (64, 32)),
        "flag": (torch.bool, (64,)),
    }
    assert (int(inputs["input_ids"].min()), int(inputs["input_ids"].max())) == (0, 49)
    assert inputs["attention_mask"].min() == 1
    assert 0.9 < inputs["image"].std() < 1.1
    assert (dataset.synthetic, dataset.task, dataset.overlap()) == (True, "none", 0)
    assert not dataset.labelled("evaluation")
    assert dataset.count("calibration") >= 256


def test_the_same_seed_draws_the_same_and_splits_differ():
    (one, first), (_, again), (_, other) = draw(0), draw(0), draw(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"])
    assert not torch.equal(first["image"], next(one.batches("calibration", 64)).inputs["image"])
