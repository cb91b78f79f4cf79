"""How networks are trained, and the specs of the family `train`."""

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Asked

Augmentation = Literal["auto", "none", "shift", "shift_flip"]

# Where neither epochs nor steps nor minutes are given.
USUAL_EPOCHS = 5.0


class Training(Asked):
    """How long and how a network is trained; one part of every step that trains."""

    epochs: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="Passes over the train split. Of epochs, steps and minutes the first that is used up ends the "
        f"training; without any of them it is {USUAL_EPOCHS:g} epochs.",
    )
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Updates of the weights.")
    minutes: float | None = Field(None, gt=0, le=10_080, description="Time, in minutes, the choice of `lr` included.")
    batch_size: int = Field(
        64, ge=1, le=8192, description="Samples of one update; computed in parts where memory is short."
    )
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="sgd has Nesterov momentum of 0.9.")
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] = Field(
        "auto",
        description="Highest learning rate, at most 10; auto: chosen by a probe that takes at most a twentieth of "
        "the budget.",
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="How the learning rate goes on after the warm-up; cosine falls to zero."
    )
    warm_up: float = Field(0.05, ge=0, le=0.5, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Decay of matrices and kernels by step and learning rate; not of biases."
    )
    clip: float | None = Field(1.0, gt=0, description="Largest norm of the gradient; longer ones are shortened.")
    ema: float | None = Field(
        None, ge=0.5, lt=1, description="Decay of a running mean of the weights, which is then judged and kept."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that is spread evenly over all classes."
    )
    augment: Augmentation = Field(
        "auto",
        description="Random changes of images: shift moves by up to an eighth, shift_flip mirrors left and right as "
        "well. auto shifts images; it never mirrors, since a mirrored letter or digit is another one.",
    )
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="Whether batch norms follow the statistics of the batches or keep theirs."
    )
    early_stopping: int | None = Field(
        10,
        ge=1,
        description="Evaluations without a better one after which training ends. With a validation split the best "
        "weights are kept in any case.",
    )
