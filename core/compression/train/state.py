"""All that training changes, as tensors by name: for checkpoints, for the best weights, and to try and go back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.compression.train.updates import Learner

WEIGHTS, OBJECTIVE, MEAN, OPTIMISER = "weights/", "objective/", "mean/", "optimiser/"


def weights_of(learner: Learner) -> dict[str, Tensor]:
    """Copies of the network's parameters and statistics."""
    return {name: tensor.detach().clone() for name, tensor in learner.mounted.state_dict().items()}


def put_weights(learner: Learner, weights: Mapping[str, Tensor]) -> None:
    """Set the network's parameters and statistics."""
    learner.mounted.load_state_dict(dict(weights))


def state_of(learner: Learner) -> dict[str, Tensor]:
    """Copies of weights, the objective's own, the running mean and the optimiser's moments."""
    found = {WEIGHTS + name: tensor for name, tensor in learner.mounted.state_dict().items()}
    found |= {OBJECTIVE + name: tensor for name, tensor in learner.objective.state_dict().items()}
    found |= {f"{MEAN}{number}": tensor for number, tensor in enumerate(learner.mean)}
    for number, moments in learner.optimiser.state_dict()["state"].items():
        found |= {f"{OPTIMISER}{number}/{name}": value for name, value in moments.items() if isinstance(value, Tensor)}
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def put_state(learner: Learner, state: Mapping[str, Tensor]) -> None:
    """The opposite of `state_of`; moments that the state lacks are forgotten."""
    learner.mounted.load_state_dict(_below(state, WEIGHTS))
    learner.objective.load_state_dict(_below(state, OBJECTIVE))
    with torch.no_grad():
        for number, tensor in _below(state, MEAN).items():
            learner.mean[int(number)].copy_(tensor)
    moments: dict[int, dict[str, Tensor]] = {}
    for place, tensor in _below(state, OPTIMISER).items():
        number, _, name = place.partition("/")
        moments.setdefault(int(number), {})[name] = tensor.clone()
    groups = learner.optimiser.state_dict()["param_groups"]
    learner.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
