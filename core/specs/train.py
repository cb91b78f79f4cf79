"""How networks are trained, and the specs of the family `train`."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from core.description import ModelDescription, Task
from core.specs.base import Asked, Capability, Family, Needs, Spec, WorksOn

Augmentation = Literal["none", "shift", "shift_flip"]

# Tasks whose labels there is a loss for.
LEARNT_TASKS: tuple[Task, ...] = (
    "classification",
    "multi_label",
    "regression",
    "token_classification",
    "language_modelling",
)
# Where neither epochs nor steps nor minutes are given.
USUAL_EPOCHS = 5.0


class Regularisation(Asked):
    """What draws weights towards zero while they are trained, so that less is lost when the small ones are pruned."""

    of: Literal["weights", "channels"] = Field(
        description="weights: each by itself (L1), before `prune.weights`. channels: all weights of a channel, unit or "
        "head together (group lasso, arXiv 1608.03665), before `prune.channels`; those that are stored as floats."
    )
    strength: float = Field(
        gt=0,
        le=10,
        description="Every update draws each weight towards zero by this times the learning rate, of channels in the "
        "mean over their weights; 0.01 to 0.1 are usual.",
    )


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
        description="Highest learning rate, at most 10; auto: the best of a few short trials, which take a twentieth "
        "of the budget; up to 15 % where that would be too few updates to tell rates apart.",
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="How the learning rate goes on after the warm-up; cosine falls to zero."
    )
    warm_up: float = Field(0.05, ge=0, le=0.5, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Decay of matrices and kernels by step and learning rate; not of biases."
    )
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; longer ones are shortened. 0: none is.")
    ema: float | None = Field(
        None, ge=0.5, lt=1, description="Decay of a running mean of the weights, which is then judged and kept."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that is spread evenly over all classes."
    )
    regularise: Regularisation | None = Field(
        None, description="Sparse regularisation: what draws weights towards zero, for steps of pruning that follow."
    )
    augment: Augmentation = Field(
        "none",
        description="Random changes of images: shift moves by up to an eighth, shift_flip mirrors left and right as "
        "well, which makes letters and digits others. None by itself: in a few epochs, networks that were not trained "
        "so win back less.",
    )
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="Whether batch norms follow the statistics of the batches or keep theirs."
    )
    early_stopping: int = Field(
        10,
        ge=0,
        description="Evaluations without a better one after which training ends; 0: it never does. With a validation "
        "split the best weights are kept in any case.",
    )

    def samples_learnt(self, available: int) -> float:
        """How many samples pass through the network to learn from, of `available`; endless by minutes alone."""
        counts = [math.inf]
        if self.epochs is None and self.steps is None and self.minutes is None:
            counts.append(USUAL_EPOCHS * available)
        if self.epochs is not None:
            counts.append(self.epochs * available)
        if self.steps is not None:
            counts.append(self.steps * float(min(self.batch_size, available)))
        return min(counts)


def trainable(description: ModelDescription) -> Capability:
    """Whether there is a network, and weights in it that can be trained."""
    if description.mode == "onnx_only":
        return Capability(
            ok=False, why=f"The file could not be read as a network, so it cannot be trained: {description.why}"
        )
    layers = tuple(layer.name for layer in description.layers if layer.parameters)
    if not layers:
        return Capability(ok=False, why="The network has no weights that could be trained.")
    return Capability(ok=True, layers=layers)


class Finetune(Training, Spec):
    """Training on, with the labels of the data: what earlier steps have cost is won back.

    Weights stay as they are stored: masks stay masks, integers, levels and codebooks are trained as such, with
    straight-through gradients and learned scales where numbers are rounded (Esser et al. 2020, arXiv 1902.08153) and
    gradients summed by centroid where they are shared (Han et al. 2016, arXiv 1510.00149). After `quantize.linear` this
    is quantization-aware training. The loss follows the task: cross-entropy, of every class for itself where there may
    be several, of every token, or squared error. The best weights by the validation split are kept, which may be those
    from before. A network that knows its training samples by heart forgets while it learns from labels; then
    `distill.logits` learns from the original's answers instead. Batch norms are part of their layers where they can be,
    and then have no statistics to follow.
    """

    title: ClassVar[str] = "Fine-tuning"
    family: ClassVar[Family] = "train"
    needs: ClassVar[Needs] = Needs(data=True, labels=True, training=True)
    example: ClassVar[dict[str, object]] = {"method": "finetune", "epochs": 2}
    works_on: ClassVar[WorksOn] = "network"

    method: Literal["finetune"] = "finetune"
    regression: Literal["squared", "huber"] = Field(
        "squared", description="Loss of numbers; huber weighs errors above 1 by their size instead of their square."
    )

    def calibration_samples(self) -> int:
        """None: it is trained on the train split."""
        return 0

    def requires(self, description: ModelDescription) -> Capability:
        """A network with weights."""
        return trainable(description)


TRAIN: tuple[type[Spec], ...] = (Finetune,)
