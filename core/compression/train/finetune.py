"""`finetune`: training on, against labels, with every weight as it is stored."""

from typing import final

from pydantic import JsonValue

from core.compression.context import Context
from core.compression.logits import logits_of
from core.compression.method import Method, Report
from core.compression.train.losses import TaskObjective
from core.compression.train.trainer import train, training_split
from core.errors import ModelpressError
from core.network.network import Network
from core.specs.train import Finetune


@final
class Finetuner(Method[Finetune]):
    """The trainer with the loss of the task."""

    def apply(self, network: Network, spec: Finetune, context: Context) -> tuple[Network, Report]:
        """Train a copy; raises `missing_data` without labels to learn from, `training_diverged`."""
        dataset = context.needed_dataset()
        split = training_split(dataset)
        if not dataset.labelled(split):
            raise ModelpressError("missing_data", f"The {split} split has no labels to learn from.", step=context.step)
        objective = TaskObjective(
            dataset.task,
            smoothing=spec.label_smoothing,
            robust=spec.regression == "huber",
            undo=logits_of(network, dataset.task),
        )
        trained = train(network, objective, dataset, spec, context)
        context.progress(1.0, f"{len(trained.layers)} layers trained")
        plan: dict[str, JsonValue] = {"training": trained.record}
        return trained.network, Report(layers=trained.layers, findings=trained.findings, plan=plan)
