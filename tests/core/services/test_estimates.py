"""The dry run's ranges against real jobs: eight networks, `quantize.linear` as its example has it, batches 1 and 32.

Each row was measured on a two-core machine under four times its load: seconds on the clock, seconds of CPU (which is
what the job takes when nothing else runs), peak resident bytes, and the bytes of `model.onnx`.
"""

from dataclasses import dataclass

import pytest

from core.description import LayerDescription, ModelDescription, SplitDescription
from core.resources.job import JobCreate, Range
from core.services import estimates
from core.specs.linear import LinearQuantization, WeightGrid
from core.specs.recipe import Constraints, Limits, Recipe
from core.specs.weight_bits import packed, stacked
from tests.core.services.makers import described_dataset, described_model


@dataclass(frozen=True)
class Measured:
    """A network: its costs, how many layers and operators it has, which parameters are quantized; then its job."""

    parameters: int
    macs: int
    planned: int
    layers: int
    operators: int
    narrow: int
    samples: tuple[int, int]
    data_bytes: int
    wall: float
    cpu: float
    memory: float
    bytes: int


JOBS = {
    "charlm_pydoc": Measured(
        363_070, 38_025_216, 368_640, 21, 88, 343_486, (512, 484), 135_873, 142.0, 43.0, 876e6, 488_445
    ),
    "dwcnn_fashion": Measured(
        90_666, 3_947_488, 226_304, 16, 36, 90_666, (512, 10_000), 30_869_925, 147.0, 29.0, 723e6, 118_428
    ),
    "lenet300_fashion": Measured(
        266_610, 266_200, 6_272, 3, 6, 266_610, (512, 10_000), 30_869_925, 38.3, 11.8, 625e6, 273_108
    ),
    "lenet300_mnist10k": Measured(
        266_610, 266_200, 6_272, 3, 6, 266_610, (512, 2_000), 1_626_525, 66.6, 11.3, 574e6, 273_108
    ),
    "lenet5_fashion": Measured(
        431_080, 2_293_000, 57_600, 4, 8, 431_080, (512, 10_000), 30_869_925, 94.7, 16.1, 655e6, 440_746
    ),
    "lenet5_mnist10k": Measured(
        431_080, 2_293_000, 57_600, 4, 8, 431_080, (512, 2_000), 1_626_525, 85.2, 14.6, 610e6, 440_746
    ),
    "resnet20_cifar10": Measured(
        271_690, 40_813_184, 196_608, 22, 51, 271_690, (512, 2_000), 33_919_071, 89.8, 40.4, 748e6, 294_294
    ),
    "vit_fashion": Measured(
        204_938, 10_913_920, 112_896, 27, 115, 200_650, (512, 10_000), 30_869_925, 93.1, 42.4, 791e6, 249_075
    ),
}


def described(job: Measured) -> ModelDescription:
    def row(name: str, kind: str, parameters: int) -> LayerDescription:
        return LayerDescription(
            name=name,
            kind=kind,
            weight_shape=(),
            output_shape=(),
            parameters=parameters,
            macs=0,
            activation_bytes=0,
        )

    others = tuple(row(f"norm{index}", "layer_norm", 0) for index in range(job.layers - 1))
    return described_model(
        parameters=job.parameters,
        macs=job.macs,
        planned_activation_bytes=job.planned,
        layers=(row("all", "linear", job.narrow), *others),
        operators={"any": job.operators},
        bytes_stripped=4 * job.parameters,
    )


def asked(**changes: object) -> JobCreate:
    return JobCreate.model_validate(
        {"model": "m", "dataset": "d", "recipe": Recipe(steps=(LinearQuantization(),)), **changes}
    )


def holds(span: Range, value: float) -> bool:
    return span.low <= value <= span.high


@pytest.mark.parametrize("name", JOBS)
def test_what_was_measured_lies_inside(name: str) -> None:
    job = JOBS[name]
    model, job_asked = described(job), asked()
    calibration, evaluation = job.samples
    splits = {
        "calibration": SplitDescription(samples=calibration, labelled=True),
        "evaluation": SplitDescription(samples=evaluation, labelled=True),
    }
    seconds = estimates.estimate_seconds(job_asked, model, described_dataset(splits=splits), 1)
    assert holds(seconds, job.wall)
    assert holds(seconds, job.cpu)
    assert holds(estimates.estimate_memory(job_asked, model, job.data_bytes), job.memory)
    size = estimates.estimate_bytes(job_asked, model, {"all": packed(8)})
    assert holds(size, job.bytes)
    # A range that holds everything says nothing.
    assert size.high < job.parameters * 4 * 0.6
    assert seconds.high < 30 * seconds.low


def test_drawn_inputs_take_time_too() -> None:
    model = described(JOBS["resnet20_cifar10"])
    drawn = estimates.estimate_seconds(asked(), model, None, 1)
    nothing = estimates.estimate_seconds(asked(), model, described_dataset(splits={}), 1)
    assert drawn.low > nothing.low


def test_a_limit_on_quality_may_leave_all_layers_wide() -> None:
    model = described(JOBS["lenet5_mnist10k"])
    size = estimates.estimate_bytes(asked(constraints=Constraints(max_drop=0.01)), model, {"all": packed(8)})
    assert size.high >= model.bytes_stripped


def test_no_job_is_said_to_outlive_its_limit() -> None:
    seconds = estimates.estimate_seconds(asked(limits=Limits(minutes=1)), described(JOBS["charlm_pydoc"]), None, 1)
    assert seconds.high == 60


def test_training_takes_the_time_of_its_epochs_or_its_minutes() -> None:
    model, data = described(JOBS["resnet20_cifar10"]), described_dataset()

    def seconds(**settings: object) -> Range:
        steps = [{"method": "finetune", **settings}]
        return estimates.estimate_seconds(asked(recipe={"steps": steps}, limits=Limits(minutes=1000)), model, data, 1)

    none = seconds(steps=1, batch_size=1)
    one, five = seconds(epochs=1), seconds(epochs=5)
    assert seconds() == five
    assert five.low - none.low == pytest.approx(5 * (one.low - none.low), rel=0.05, abs=0.3)
    # Forward and backward of 500 samples at 3 passes, on the slow machine.
    assert one.high - none.high > 3 * 500 * model.macs / 3e9
    assert seconds(minutes=3).low == pytest.approx(none.low + 180, abs=1)
    assert seconds(epochs=1, minutes=300) == one


def test_rounds_of_pruning_take_the_time_of_their_trainings() -> None:
    model, data = described(JOBS["resnet20_cifar10"]), described_dataset()

    def seconds(**settings: object) -> Range:
        steps = [{"method": "prune.channels", **settings}]
        return estimates.estimate_seconds(asked(recipe={"steps": steps}, limits=Limits(minutes=1000)), model, data, 1)

    once, train = seconds(), {"method": "finetune", "epochs": 4}
    ranked = seconds(schedule={"rounds": 3})
    trained = seconds(schedule={"rounds": 3, "train": train})
    assert ranked.high > once.high
    # Three times four epochs of 500 samples at 3 passes, on the slow machine; rounds may be left out.
    assert trained.high - ranked.high > 3 * 4 * 3 * 500 * model.macs / 3e9
    assert trained.low > ranked.low
    assert seconds(keep={"max_drop": 0.01}).high > once.high


def test_weights_inside_of_branches_are_in_the_file() -> None:
    # silero-vad 6.2.3 for 16 kHz: 208 kB in layers of the main graph, 1.06 MB in branches.
    layer = described(JOBS["lenet300_fashion"]).layers[0].model_copy(update={"parameters": 52_000})
    model = described_model(
        mode="onnx_only", parameters=52_000, layers=(layer,), operators={"Conv": 6, "If": 3}, bytes_stripped=1_270_000
    )
    size = estimates.estimate_bytes(asked(), model, {"all": packed(8)})
    # What dynamic quantization made of it with and without the branches.
    assert holds(size, 497_953)
    assert size.high > 1_100_000
    assert size.low > 300_000


def test_fewer_bits_make_a_smaller_file() -> None:
    # lenet5_fashion by `quantize.linear` with `activations: null`, symmetric: 4 bits by channel, 3 in groups of 64.
    model = described(JOBS["lenet5_fashion"])
    by_channel, by_group = LinearQuantization(weights=WeightGrid(bits=4)), WeightGrid(bits=3, per="group")
    four = estimates.estimate_bytes(asked(), model, {"all": by_channel.weight_bits(model.layers[0])})
    three = LinearQuantization(weights=by_group).weight_bits(model.layers[0])
    assert holds(four, 220_000)
    assert not holds(four, 436_000)
    # A scale for 64 weights is more than half a bit for each.
    assert three[0] == 3
    assert three[1] > 3.5


def test_steps_of_several_families_each_save_their_share() -> None:
    # A tenth of the weights under a mask, then a codebook of 16: 4 bits for each that stays, and where it is.
    low, high = stacked([(3.2, 33.0), packed(4)])
    assert low == pytest.approx(0.4)
    assert packed(4)[1] < high < 6
    assert stacked([packed(8)]) == packed(8)
