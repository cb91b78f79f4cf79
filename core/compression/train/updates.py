"""One update of the weights: gradients over the parts of a batch, clipping, learning rate, optimiser, running mean."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from core.compression.train.feeding import on_device, part_of
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Objective, TrainingBatch
from core.specs.train import Training

MOMENTUM = 0.9
# Of a matrix or a kernel; biases, gains and scales have fewer dimensions.
DECAYED_RANK = 2
# The name of what encodings and grids multiply their integers by.
SCALE = "scale"
# Offset of the running mean's warm-up, as in TensorFlow's ExponentialMovingAverage.
_EMA_WARM_UP = 10


def rate_at(update: int, steps: int, settings: Training) -> float:
    """The share of the highest learning rate at an update: a linear rise, then half a cosine (arXiv 1608.03983)."""
    rise = round(settings.warm_up * steps)
    if update < rise:
        return (update + 1) / (rise + 1)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (update - rise) / max(steps - rise, 1)))


class Regulariser(Protocol):
    """A proximal step after each update: it draws the weights that the update leaves towards zero."""

    def shrink(self, rate: float) -> None:
        """Change the weights in place; `rate` is the learning rate of the update."""
        ...


@final
@dataclass
class Learner:
    """A mounted network, its objective, and all that changes while they are trained."""

    mounted: TrainableNetwork
    objective: Objective
    settings: Training
    micro_batch: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    regulariser: Regulariser | None = None

    def __post_init__(self) -> None:
        trained = {
            f"{place}.{name}": parameter
            for place, module in (("network", self.mounted), ("objective", self.objective))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.parameters = list(trained.values())
        self.optimiser = _optimiser(trained, self.settings)
        self.mean: list[Tensor] = (
            [parameter.detach().clone() for parameter in self.parameters] if self.settings.ema else []
        )

    def update(self, batch: TrainingBatch, rate: float, number: int) -> Tensor:
        """Change the weights once at the learning rate `rate`; gives the mean loss of the samples, on the device."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.micro_batch >= len(batch.rows):
            loss = self._descend(batch, 1.0)
        else:
            loss = torch.zeros((), device=self.device)
            for start in range(0, len(batch.rows), self.micro_batch):
                part = part_of(batch, start, self.micro_batch)
                loss += self._descend(part, len(part.rows) / len(batch.rows))
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["pace"]
        self.optimiser.step()
        if self.regulariser is not None:
            self.regulariser.shrink(rate)
        if self.settings.ema is not None:
            decay = min(self.settings.ema, (1 + number) / (_EMA_WARM_UP + number))
            torch._foreach_lerp_(self.mean, [parameter.detach() for parameter in self.parameters], 1 - decay)
        return loss

    def _descend(self, part: TrainingBatch, share: float) -> Tensor:
        """Add the gradient of a part of a batch; gives its share of the loss."""
        part = on_device(part, self.device)
        loss: Tensor = self.objective(self.mounted(*part.inputs), part)
        if share != 1.0:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the weights are their running mean, where there is one."""
        if not self.mean:
            yield
            return
        own = [parameter.detach().clone() for parameter in self.parameters]
        _copy(self.mean, self.parameters)
        try:
            yield
        finally:
            _copy(own, self.parameters)


def _copy(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    torch._foreach_copy_([parameter.detach() for parameter in parameters], list(values))


def _optimiser(parameters: Mapping[str, nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """AdamW or SGD over groups of parameters; each has a `pace` that the learning rate is multiplied by."""
    scales = {name: each for name, each in parameters.items() if name.rpartition(".")[2] == SCALE}
    others = [each for name, each in parameters.items() if name not in scales]
    groups: list[dict[str, Any]] = [
        {"params": [each for each in others if each.dim() >= DECAYED_RANK], "weight_decay": settings.weight_decay},
        {"params": [each for each in others if each.dim() < DECAYED_RANK], "weight_decay": 0.0},
    ]
    groups = [group | {"pace": 1.0} for group in groups if group["params"]]
    for scale in scales.values():
        # Adam moves every number by about the learning rate; a scale, which is small, has to move in proportion.
        pace = float(scale.detach().abs().mean()) if settings.optimiser == "adamw" else 1.0
        groups.append({"params": [scale], "weight_decay": 0.0, "pace": pace})
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=1.0, fused=True)
