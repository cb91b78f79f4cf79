"""Books of few values weighted by Fisher information against unweighted ones, after and without GPTQ.

    python -m benchmarks.fisher_codebook --shared ../shared

Of every network all layers get a book of 4 and of 8 values (2 and 3 bits). Fisher information comes from training
samples without their labels, the loss from the evaluation split with labels: the increase over the float network, and
the share of it that the weighting removes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.finetune import SPECS
from core.compression.context import Context
from core.compression.registry import method_of
from core.compression.yardstick import Yardstick
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.messages import Message
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.codebook import CodebookQuantization
from core.specs.recipe import Constraints, Target
from core.specs.rounding import Rounding

TEXT = DatasetSpec(
    task="language_modelling", splits={"train": SplitArrays(x="train"), "evaluation": SplitArrays(x="test")}
)
NETWORKS = (
    ("lenet5_fashion", "fashion_mnist"),
    ("resnet20_cifar10", "cifar10_small"),
    ("dwcnn_fashion", "fashion_mnist"),
    ("vit_fashion", "fashion_mnist"),
    ("charlm_pydoc", "pydoc_text"),
)
JUDGED = 2000


@dataclass(frozen=True)
class Case:
    """A network, its data, and what its losses are judged by."""

    network: Network
    dataset: Dataset
    yardstick: Yardstick

    def increase(self, spec: CodebookQuantization) -> tuple[float, float]:
        """By how much the loss rises in nats, and the quality then."""
        context = Context(
            step=spec.method,
            index=0,
            dataset=self.dataset,
            target=Target(),
            constraints=Constraints(),
            seed=0,
            emit=list[Message]().append,
        )
        made, _ = method_of(spec).apply(self.network, spec, context)
        score = self.yardstick.score(made)
        return score.loss - self.yardstick.original.loss, score.quality


def main() -> None:
    parser = argparse.ArgumentParser(description="Fisher-weighted codebooks.")
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[name for name, _ in NETWORKS])
    parser.add_argument("--values", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--gptq", action="store_true", help="round by GPTQ, with and without the weighting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | values | unweighted | Fisher | removed | quality: float, unweighted, Fisher |")
    print("| --- | --- | --- | --- | --- | --- |")
    rounding = Rounding(method="gptq" if options.gptq else "nearest")
    for name, data in NETWORKS:
        if name in options.only:
            case = open_case(options.shared, name, data)
            for values in options.values:
                plain = CodebookQuantization(values=values, rounding=rounding)
                weighted = plain.model_copy(update={"weighting": "fisher", "samples": options.samples})
                (one, first), (other, second) = case.increase(plain), case.increase(weighted)
                qualities = f"{case.yardstick.original.quality:.4f}, {first:.4f}, {second:.4f}"
                print(
                    f"| {name} | {values} | +{one:.4f} | +{other:.4f} | {1 - other / one:.0%} | {qualities} |",
                    flush=True,
                )


def open_case(shared: Path, name: str, data: str) -> Case:
    """The network with folded norms, its data, and its evaluation samples."""
    network = fold_batch_norm(read(shared / "models" / f"{name}.pt2"))
    spec = TEXT if data == "pydoc_text" else SPECS[data]
    dataset = open_dataset([shared / "data" / f"{data}.npz"], spec, network.inputs)
    limit = JUDGED // 4 if data == "pydoc_text" else JUDGED
    return Case(network, dataset, Yardstick(network, dataset, split="evaluation", limit=limit))


if __name__ == "__main__":
    main()
