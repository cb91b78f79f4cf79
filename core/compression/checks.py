"""What the pipeline checks of every method's work, so that no method has to."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.compression.method import Report
from core.data.dataset import Dataset
from core.description import ModelDescription
from core.errors import ModelpressError
from core.measure.feeds import make_feed
from core.measure.runtime import fixed_batch, open_session, run_session
from core.network.network import Network


def check_step(before: Network, after: Network, report: Report, probes: tuple[Tensor, ...]) -> None:
    """Same output shapes, finite outputs, legal encodings, layers not named untouched.

    Raises `non_finite` or `internal` with the layer.
    """
    _check_outputs(before, after, probes)
    _check_encodings(after)
    _check_untouched(before, after, frozenset(report.layers))


def _check_outputs(before: Network, after: Network, probes: tuple[Tensor, ...]) -> None:
    for output, wanted, found in zip(before.outputs, _run(before, probes), _run(after, probes), strict=True):
        if wanted.shape != found.shape:
            raise ModelpressError(
                "internal",
                f"Output {output.name} had the shape {tuple(wanted.shape)} and has {tuple(found.shape)} now.",
            )
        if not bool(torch.isfinite(found).all()):
            raise ModelpressError("non_finite", f"Output {output.name} is NaN or infinite after the step.")


def _run(network: Network, probes: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = network.graph(*probes)
    return [found] if isinstance(found, Tensor) else list(found)


def _check_encodings(network: Network) -> None:
    """Each encoding belongs to a parameter that equals what it decodes to."""
    parameters = dict(network.graph.named_parameters(remove_duplicate=False))
    for name, encoding in network.encodings.items():
        if name not in parameters:
            raise ModelpressError("internal", f"An encoding names {name}, which is no parameter.", layer=name)
        if not torch.equal(encoding.decode(), parameters[name].detach()):
            raise ModelpressError("internal", f"The weight {name} is not what its encoding stores.", layer=name)


def _check_untouched(before: Network, after: Network, touched: frozenset[str]) -> None:
    """Parameters of layers that the report does not name are bit-identical."""
    now = after.graph.state_dict()
    for name, value in before.graph.state_dict().items():
        layer = name.rpartition(".")[0]
        if layer in touched or name not in now:
            continue
        if not torch.equal(value, now[name]):
            raise ModelpressError("internal", f"The step changed {layer}, which its report does not name.", layer=layer)


def check_file(before: Path, after: Path, dataset: Dataset | None, description: ModelDescription) -> None:
    """The changed file opens in onnxruntime and gives finite outputs of the same shapes.

    Raises `runtime_failed`, `non_finite` or `internal`.
    """
    one, other = open_session(before, 1), open_session(after, 1)
    feed = make_feed(one, dataset, fixed_batch(one) or 1, description.counted_at)
    names = (output.name for output in one.get_outputs())
    for name, wanted, found in zip(names, run_session(one, feed), run_session(other, feed), strict=True):
        if wanted.shape != found.shape:
            raise ModelpressError("internal", f"Output {name} had the shape {wanted.shape} and has {found.shape} now.")
        if found.dtype.kind == "f" and not np.isfinite(found).all() and np.isfinite(wanted).all():
            raise ModelpressError("non_finite", f"Output {name} is NaN or infinite after the step.")
