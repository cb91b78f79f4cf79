"""Weights of 4, 3 and 2 bits and of 1 bit without labels: each way to round, and each kind of grid, on four networks.

    OMP_NUM_THREADS=1 python -m benchmarks.low_bits --shared ../shared --out low_bits.json

Every method of the library runs on 512 calibration samples without labels; loss and quality are those of the exported
file in onnxruntime on the whole evaluation split. `removed` is the share of the loss increase of rounding to the
nearest on the same grid, without bias correction, that is gone. Seconds are of the processor, of rounding alone, for a
million weights. Trials of single layers are cut short, since nothing is made of them here.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune import SPECS
from benchmarks.fisher_codebook import TEXT
from core.compression import sensitivity
from core.compression.context import Context
from core.compression.registry import method_of
from core.compression.yardstick import judge_labels
from core.data.dataset import Dataset, open_dataset
from core.measure.intervals import compare_proportions
from core.measure.runtime import open_session, run_session
from core.measure.size import itemise_bytes
from core.messages import Message, ProgressMessage
from core.network.export import export_onnx
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.base import Spec
from core.specs.codebook import CodebookQuantization
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.linear import LinearQuantization, WeightGrid
from core.specs.recipe import Constraints, Target
from core.specs.rounding import Rounding

NETWORKS = {
    "lenet5_fashion": "fashion_mnist",
    "dwcnn_fashion": "fashion_mnist",
    "vit_fashion": "fashion_mnist",
    "charlm_pydoc": "pydoc_text",
}
# A table is no product: all methods leave it as it is, as the papers do.
KEPT = {"charlm_pydoc": ("emb",)}
GPTQ, ADAROUND = Rounding(method="gptq"), Rounding(method="adaround")
SAME_SCALES = Rounding(method="gptq", scales="nearest")
BATCH, SHORT = 100, 8


@dataclass(frozen=True)
class Answers:
    """Loss in nats, quality, and of classes which samples are right."""

    loss: float
    quality: float
    right: np.ndarray


@dataclass(frozen=True)
class Case:
    """A network by its name, its data, and where files are written."""

    name: str
    network: Network
    dataset: Dataset
    work: Path

    def answer(self, network: Network) -> tuple[Answers, Path]:
        """What the exported file answers on the evaluation split."""
        path = self.work / "file.onnx"
        first = next(self.dataset.batches("evaluation", 8, 8))
        export_onnx(network, path, probes=tuple(first.inputs[tensor.name] for tensor in network.inputs))
        session, losses, qualities, right, counts = open_session(path, 1), [], [], [], []
        for batch in self.dataset.batches("evaluation", BATCH):
            found = torch.from_numpy(run_session(session, {k: v.numpy() for k, v in batch.inputs.items()})[0])
            loss, quality = judge_labels(self.dataset.task, found, batch.labels)
            losses.append(loss)
            qualities.append(quality)
            counts.append(len(found))
            right.append((found.argmax(-1) == batch.labels).flatten().numpy())
        loss, quality = (float(np.average(each, weights=counts)) for each in (losses, qualities))
        return Answers(loss, quality, np.concatenate(right)), path

    def make(self, spec: Spec) -> tuple[Network, float]:
        """The network after a method, and the seconds of rounding."""
        clock = Clock()
        context = Context(
            step=spec.method,
            index=0,
            dataset=self.dataset,
            target=Target(),
            constraints=Constraints(),
            seed=0,
            emit=clock.hear,
        )
        made, _ = method_of(spec).apply(self.network, spec, context)
        return made, clock.seconds


class Clock:
    """Adds up the processor's seconds from each message that says `Rounding` to the next message of progress."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def hear(self, message: Message) -> None:
        """Take the time."""
        if not isinstance(message, ProgressMessage):
            return
        now = time.process_time()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if message.message.startswith("Rounding") else None


def specs_of(bits: int, keep: tuple[str, ...]) -> Iterator[tuple[str, Spec]]:
    """The control of so many bits first, then what is compared with it."""
    if bits > 1:
        grid = WeightGrid(bits=bits, per="channel")
        linear = LinearQuantization(weights=grid, activations=None, keep_float=keep, bias_correction=False)
        yield "nearest", linear
        yield "nearest, biases corrected", linear.model_copy(update={"bias_correction": True})
        yield "gptq", linear.model_copy(update={"rounding": GPTQ})
        yield "gptq, scales of nearest", linear.model_copy(update={"rounding": SAME_SCALES})
        yield "adaround", linear.model_copy(update={"rounding": ADAROUND})
        book = CodebookQuantization(values=2**bits, keep_float=keep)
        yield "codebook", book
        yield "codebook, gptq", book.model_copy(update={"rounding": GPTQ})
    if bits > 2:
        yield "log2", LogQuantization(bits=bits, keep_float=keep)
        yield "log2, gptq", LogQuantization(bits=bits, keep_float=keep, rounding=GPTQ)
    if bits == 2:
        yield "ternary", TernaryQuantization(keep_float=keep)
        yield "ternary, gptq", TernaryQuantization(keep_float=keep, rounding=GPTQ)
    if bits == 1:
        yield "nearest", BinaryQuantization(keep_float=keep)
        yield "gptq", BinaryQuantization(keep_float=keep, rounding=GPTQ)


def run_case(case: Case, bits: int, wanted: Answers, ways: list[str] | None) -> Iterator[dict[str, object]]:
    """A row for each way, or for those that are named and the control."""
    control = None
    for name, spec in specs_of(bits, KEPT.get(case.name, ())):
        if ways is not None and name not in ways and control is not None:
            continue
        made, seconds = case.make(spec)
        found, path = case.answer(made)
        increase = found.loss - wanted.loss
        control = increase if control is None else control
        weights = {key: each for key, each in made.encodings.items() if key.endswith("weight")}
        numbers = sum(each.decode().numel() for each in weights.values())
        stored = sum(sum(each.bytes().model_dump().values()) for each in weights.values())
        row: dict[str, object] = {
            "network": case.name,
            "bits": bits,
            "method": name,
            "loss": round(found.loss, 4),
            "increase": round(increase, 4),
            "removed": round(1 - increase / control, 2),
            "quality": round(found.quality, 4),
            "bits_a_weight": round(8 * stored / numbers, 3),
            "file_bytes": sum(itemise_bytes(path).model_dump().values()),
            "seconds_a_million": round(seconds / numbers * 1e6, 1),
            "load": round(os.getloadavg()[0], 1),
        }
        if case.dataset.task == "classification":
            change = compare_proportions(wanted.right, found.right)
            row["points"] = [round(100 * each, 2) for each in (change.delta, change.low, change.high)]
        yield row


def open_case(shared: Path, name: str, work: Path) -> Case:
    """The network with folded norms, and its data."""
    network = fold_batch_norm(read(shared / "models" / f"{name}.pt2"))
    data = NETWORKS[name]
    spec = TEXT if data == "pydoc_text" else SPECS[data]
    return Case(name, network, open_dataset([shared / "data" / f"{data}.npz"], spec, network.inputs), work)


def main() -> None:
    """Run every case and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--bits", type=int, nargs="*", default=[4, 3, 2, 1])
    parser.add_argument("--ways", nargs="*", help="such as gptq or 'log2, gptq'; all where nothing is said")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sensitivity.SAMPLES = sensitivity.SAMPLES_OF_MANY_LAYERS = SHORT
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            case = open_case(options.shared, name, Path(folder))
            wanted, path = case.answer(case.network)
            print(json.dumps({"network": name, "loss": wanted.loss, "quality": wanted.quality}), flush=True)
            del path
            for bits in options.bits:
                for row in run_case(case, bits, wanted, options.ways):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
