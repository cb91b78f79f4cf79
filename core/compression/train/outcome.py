"""What a training gives back."""

from dataclasses import dataclass

import torch
from pydantic import JsonValue
from torch import Tensor

from core.compression.train.course import Course
from core.compression.train.mount import TrainableNetwork
from core.compression.train.validation import SPLIT
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.verdict import Finding


@dataclass(frozen=True)
class Trained:
    """The trained network, the layers that changed, all that was decided (JSON), and what there is to remark.

    A method puts `record` into its plan under `training`, where a replay looks for it.
    """

    network: Network
    layers: tuple[str, ...]
    record: dict[str, JsonValue]
    findings: tuple[Finding, ...] = ()


def changed_layers(before: Network, after: Network) -> tuple[str, ...]:
    """Paths of the modules whose parameters or statistics differ; "" for those that belong to no layer."""
    then, now = before.graph.state_dict(), after.graph.state_dict()
    return tuple(sorted({name.rpartition(".")[0] for name, value in then.items() if not torch.equal(value, now[name])}))


def check_same(mounted: TrainableNetwork, network: Network, inputs: tuple[Tensor, ...]) -> None:
    """Raise `internal` unless the network answers bit for bit what was trained."""
    mounted = mounted.cpu()
    with torch.no_grad():
        wanted, found = mounted(*inputs).outputs, network.graph(*inputs)
    given = (found,) if isinstance(found, Tensor) else tuple(found)
    if not all(torch.equal(one, other) for one, other in zip(wanted, given, strict=True)):
        raise ModelpressError("internal", "The network that training gave back is not the one that was trained.")


def remarks(course: Course) -> tuple[Finding, ...]:
    """A finding where the weights from before are still the best."""
    before = course.before
    if before is None or course.best_at:
        return ()
    known = f"loss {before.loss:.4f}" if before.quality is None else f"quality {before.quality:.4f}"
    text = (
        f"None of the weights in {course.done:,} updates were better on the {SPLIT} split than those from before "
        f"({known}), which were kept."
    )
    return (make_finding("training_did_not_help", text),)
