"""The training at the end of a round of pruning."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from core.compression.context import Context, Emit
from core.compression.distill import DISTILL
from core.compression.method import Method, Report
from core.compression.train import TRAIN
from core.messages import Message, MetricMessage
from core.network.network import Network
from core.specs.base import Spec
from core.specs.schedule import RoundTraining

_TRAINERS: Mapping[type[Spec], Method[Any]] = {**TRAIN, **DISTILL}


def train_round(
    network: Network, train: RoundTraining, context: Context, epochs: float
) -> tuple[Network, Report, float]:
    """The trained network, what was done, and how many epochs all rounds have had by then; `epochs` before this one.

    Curves go on where that of the round before ended. Raises what the training raises.
    """
    counter = _Counter(context.emit, epochs)
    trained, report = _TRAINERS[type(train)].apply(network, train, replace(context, emit=counter.tell))
    return trained, report, counter.last


@final
@dataclass
class _Counter:
    """Passes messages on with the epochs of earlier rounds added."""

    emit: Emit
    before: float

    def __post_init__(self) -> None:
        self.last = self.before

    def tell(self, message: Message) -> None:
        if isinstance(message, MetricMessage) and message.at is not None:
            self.last = self.before + message.at
            message = message.model_copy(update={"at": self.last})
        self.emit(message)
