import pytest
import torch

from core.data.access import RandomAccess
from core.data.synthetic import Known, synthesise
from core.description import InputMapping, TensorDescription
from core.errors import ModelpressError
from core.network.input_statistics import InputStatistics

INPUTS = (
    TensorDescription(name="image", dtype="float16", shape=("batch", 3, 8, 8)),
    TensorDescription(name="input_ids", dtype="int64", shape=("batch", "sequence")),
    TensorDescription(name="attention_mask", dtype="int64", shape=("batch", "sequence")),
    TensorDescription(name="flag", dtype="bool", shape=("batch",)),
)


def draw(seed):
    dataset = synthesise(INPUTS, Known(limits={"input_ids": 50}, sizes={"sequence": 32}), seed)
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


def test_it_is_told_what_was_assumed():
    assert draw(0)[0].assumed == (
        "`image` is normal noise of mean 0 and deviation 1, since nothing in the model tells its range; "
        "`input_ids` is random integers from 0 to 49; `attention_mask` is all ones; and 1 more"
    )


def test_floats_have_the_statistics_that_the_network_tells():
    told = InputStatistics((100.0, 120.0, 140.0), (60.0,), "the first batch norm")
    dataset = synthesise(INPUTS[:1], Known(statistics={"image": told}), 0)
    image = next(dataset.batches("evaluation", 512)).inputs["image"]
    assert image.mean((0, 2, 3)).tolist() == pytest.approx([100, 120, 140], abs=2)
    assert image.std((0, 2, 3)).tolist() == pytest.approx([60, 60, 60], rel=0.03)
    assert dataset.assumed == (
        "`image` is normal noise of mean 100, 120, 140 and deviation 60, by the first batch norm"
    )


def test_images_are_pixels_where_the_model_has_a_preprocessor():
    mapping = InputMapping(colour="rgb", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    dataset = synthesise(INPUTS[:1], Known(preprocessor=mapping), 0)
    image = next(dataset.batches("evaluation", 512)).inputs["image"]
    assert image.amin((0, 2, 3)).tolist() == pytest.approx([-2.5, -2, -1.5])
    assert image.amax((0, 2, 3)).tolist() == pytest.approx([2.5, 3, 3.5])
    levels = (image[:, 0] * 0.2 + 0.5) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert "random pixels from 0 to 255" in dataset.assumed
    # A preprocessor of colour images says nothing of one channel.
    grey = TensorDescription(name="x", dtype="float32", shape=("batch", 1, 8, 8))
    assert "normal noise" in synthesise((grey,), Known(preprocessor=mapping), 0).assumed


def test_bytes_are_drawn_over_their_whole_range():
    tensor = TensorDescription(name="image", dtype="uint8", shape=("batch", 3, 8, 8))
    image = next(synthesise((tensor,), Known(), 0).batches("evaluation", 64)).inputs["image"]
    assert (image.dtype, int(image.min()), int(image.max())) == (torch.uint8, 0, 255)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_states_whose_samples_are_no_rows_are_not_trained_on(kept_bytes):
    state = TensorDescription(name="state", dtype="float32", shape=(2, "batch", 5))
    dataset = synthesise((*INPUTS, state), Known(sizes={"sequence": 8}), 0)
    with pytest.raises(ModelpressError, match="`state`") as caught:
        RandomAccess(dataset, "calibration", kept_bytes=kept_bytes)
    assert caught.value.code == "method_not_applicable"
