"""`distill.blocks`: layer by layer, what earlier steps have changed learns to give what the original gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from core.compression.context import Context
from core.compression.distill.blocks import (
    Block,
    changed_layers,
    cut_out,
    find_blocks,
    put_back,
    shared_grids,
    shared_layers,
)
from core.compression.distill.learning import differing_layers
from core.compression.method import Method, Report
from core.compression.train.feeding import fixed_batch
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.compression.train.updates import Learner, rate_at
from core.compression.yardstick import input_batches
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.network.share import copy_graph
from core.specs.distill import BlockDistillation
from core.specs.train import Training

# What the remembered values of one block may take, in bytes.
REMEMBERED_BYTES = 256 * 2**20
# Share of the samples that judge a block and are not learnt from.
HELD_OUT = 0.2
BATCH = 32
# How often a block is judged while it learns.
JUDGEMENTS = 10
# Learning rates that are tried on each block, and the updates of each trial.
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
TRIAL = 24
_ORDER = 0xB10C


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of a block, each (n, …), what the original gives there (n, …), and how many of them judge."""

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    judging: int

    @property
    def learning(self) -> int:
        """Samples to learn from, which come first."""
        return len(self.wanted) - self.judging

    def batch(self, rows: Tensor) -> TrainingBatch:
        """These rows."""
        return TrainingBatch(tuple(value[rows] for value in self.inputs), None, rows)


@final
class BlockObjective(Objective):
    """Squared error as a share of the mean square of what is wanted, so that blocks are alike to the optimiser."""

    def __init__(self, wanted: Tensor) -> None:
        super().__init__()
        # In a tuple, so that it is neither a parameter nor kept.
        self._wanted = (wanted, wanted.square().mean().clamp_min(torch.finfo(wanted.dtype).tiny))

    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """The error of a batch."""
        wanted, size = self._wanted
        return (answers.outputs[0] - wanted[batch.rows]).square().mean() / size


@final
class BlockMethod(Method[BlockDistillation]):
    """Carries out `distill.blocks` (as in BRECQ, arXiv 2102.05426, section 3.2: the error of a block's output)."""

    def apply(self, network: Network, spec: BlockDistillation, context: Context) -> tuple[Network, Report]:
        """Blocks in order, each on what the blocks before it give by then."""
        original = context.original or network
        blocks, told = _choose_blocks(network, original)
        for line in told:
            context.log(line)
        if not blocks:
            text = (
                "Every block is as in the original, or shares its weights with another one: there is nothing to learn."
            )
            return network, Report(layers=(), findings=(make_finding("nothing_to_learn", text),))
        result = replace(network, graph=copy_graph(network.graph), encodings=dict(network.encodings))
        plan: list[JsonValue] = []
        for number, block in enumerate(blocks):
            begin = number / len(blocks)
            context.progress(begin, f"Block {number + 1} of {len(blocks)}, {block.name}")
            pupil = _Pupil(
                result, original, block, spec, replace(context, span=_part(context.span, number, len(blocks)))
            )
            plan.append(pupil.learn(number))
        return result, Report(layers=differing_layers(network, result), plan={"blocks": plan})


def _choose_blocks(network: Network, original: Network) -> tuple[list[Block], list[str]]:
    """The blocks that learn, and why others do not."""
    changed, shared = changed_layers(network, original), shared_layers(network)
    chosen, told = [], []
    for block in find_blocks(network, original):
        if common := sorted(shared & set(block.layers)):
            told.append(f"The block from {block.name} stays: {', '.join(common)} is used elsewhere too.")
        elif changed & set(block.layers):
            chosen.append(block)
    return chosen, told


def _part(span: tuple[float, float], number: int, count: int) -> tuple[float, float]:
    begin, end = span
    width = (end - begin) / count
    return begin + width * number, begin + width * (number + 1)


@final
@dataclass(frozen=True)
class _Pupil:
    """One block of `result`, whose layers are given new numbers."""

    result: Network
    original: Network
    block: Block
    spec: BlockDistillation
    context: Context

    def learn(self, number: int) -> JsonValue:
        """Train the block and put it back if it became better; gives what was decided."""
        samples = self._collect()
        task = _Task(cut_out(self.result, self.block.start, self.block.end), self._latent(), samples, number)
        before = self._judge(TrainableNetwork(task.part), task)
        rate = self.spec.lr if isinstance(self.spec.lr, float) else self._choose_rate(task)
        steps = max(round(self.spec.epochs * samples.learning / self._batch_size(task)), 1)
        mounted, after = self._train(task, rate=rate, steps=steps, judgements=JUDGEMENTS)
        kept = after < before
        if kept:
            put_back(self.result, mounted.unmount())
        self.context.log(
            f"Block from {self.block.name}: error {before:.3g}, after {steps} updates {after:.3g} of the mean square"
            f"{'' if kept else ', so it stays as it was'}; learning rate {rate:g}, {len(samples.wanted)} samples."
        )
        name = self.block.end or "outputs"
        self.context.metric("block_error", min(after, before), split="calibration", layer=name)
        return {"block": name, "lr": rate, "steps": steps, "samples": len(samples.wanted), "kept": kept}

    def _latent(self) -> dict[str, Tensor]:
        """The original's weights beneath those that are encoded: from there, a step to the next level is rarely far.

        Weights that begin on their levels are all as far from the next ones, and those with like gradients change at
        once: at 3 bits that threw a product from 0.02 to 0.3.
        """
        theirs = dict(self.original.graph.named_parameters(remove_duplicate=False))
        return {
            path: theirs[path].detach()
            for path, encoding in self.result.encodings.items()
            if path in theirs and theirs[path].shape == encoding.decode().shape
        }

    def _collect(self) -> Samples:
        """What the block is given by the network as it is now, and what the original gives at its end."""
        start, end, dataset = self.block.start, self.block.end, self.context.needed_dataset()
        ours = None if start is None else cut_out(self.result, None, start)
        theirs = cut_out(self.original, None, end)
        needed = {tensor.name for tensor in cut_out(self.result, start, end).inputs}
        inputs: list[tuple[Tensor, ...]] = []
        wanted: list[Tensor] = []
        names = [tensor.name for tensor in self.original.inputs]
        for batch in input_batches(self.original, dataset, "calibration", limit=self.spec.samples, batch=BATCH):
            named = dict(zip(names, batch, strict=True))
            given = () if ours is None else (_answer(ours, named),)
            inputs.append((*given, *(value for name, value in named.items() if name in needed)))
            wanted.append(_answer(theirs, named))
            if _bytes(inputs) + _bytes([(value,) for value in wanted]) >= REMEMBERED_BYTES:
                break
        joined = tuple(torch.cat(values) for values in zip(*inputs, strict=True))
        count = len(joined[0]) if joined else 0
        # A network of a fixed batch size learns and is judged by whole batches.
        unit = fixed_batch(self.original) or 1
        judging = max(round(count * HELD_OUT / unit), 1) * unit
        if count - judging < unit:
            raise ModelpressError("missing_data", f"A block needs {2 * unit} samples at least to learn from.")
        return Samples(joined, torch.cat(wanted), judging)

    def _batch_size(self, task: "_Task") -> int:
        unit = fixed_batch(self.original) or 1
        return max(min(self.spec.batch_size, task.samples.learning) // unit, 1) * unit

    def _choose_rate(self, task: "_Task") -> float:
        """The rate whose short trial leaves the smallest error on the samples that judge."""
        errors = [self._train(task, rate=rate, steps=TRIAL, judgements=1)[1] for rate in RATES]
        return min(zip(errors, RATES, strict=True), key=lambda each: (math.isnan(each[0]), each[0]))[1]

    def _train(self, task: "_Task", *, rate: float, steps: int, judgements: int) -> tuple[TrainableNetwork, float]:
        """The block as it was best when it was judged, with its error; rows come in an order by the seeds alone."""
        settings = Training(batch_size=self._batch_size(task), lr=rate, steps=steps, weight_decay=0.0)
        mounted = self._mount(task)
        learner = Learner(mounted, task.objective, settings, fixed_batch(self.original) or settings.batch_size)
        draw = np.random.default_rng((self.context.seed, _ORDER, task.number))
        rows = np.empty(0, np.int64)
        best, best_error = {}, math.inf
        pause = math.ceil(steps / judgements)
        for update in range(steps):
            if len(rows) < settings.batch_size:
                rows = draw.permutation(task.samples.learning)
            chosen, rows = rows[: settings.batch_size], rows[settings.batch_size :]
            learner.update(
                task.samples.batch(torch.from_numpy(chosen)), rate * rate_at(update, steps, settings), update
            )
            if (update + 1) % pause == 0 or update + 1 == steps:
                self.context.progress((update + 1) / steps, f"Block from {self.block.name}")
                if (error := self._judge(mounted, task)) < best_error:
                    best_error = error
                    best = {name: value.detach().clone() for name, value in mounted.state_dict().items()}
        if best:
            mounted.load_state_dict(best)
        return mounted, best_error

    def _mount(self, task: "_Task") -> TrainableNetwork:
        mounted = TrainableNetwork(task.part, latent=task.latent)
        mounted.follow_batches(follow=False)
        grids = shared_grids(self.result) & dict(mounted.graph.named_modules()).keys()
        for grid in grids:
            # Other blocks round on it too.
            mounted.graph.get_submodule(grid).requires_grad_(requires_grad=False)
        return mounted

    def _judge(self, mounted: TrainableNetwork, task: "_Task") -> float:
        """The error on the samples that judge."""
        total, samples = 0.0, task.samples
        batch = fixed_batch(self.original) or self.spec.batch_size
        with torch.no_grad():
            for start in range(samples.learning, len(samples.wanted), batch):
                rows = torch.arange(start, min(start + batch, len(samples.wanted)))
                given = samples.batch(rows)
                total += float(task.objective(mounted(*given.inputs), given)) * len(rows)
        return total / samples.judging


@final
class _Task:
    """What one block learns, its `number` among all, and where its latent weights start."""

    def __init__(self, part: Network, latent: Mapping[str, Tensor], samples: Samples, number: int) -> None:
        self.part, self.latent, self.samples, self.number = part, latent, samples, number
        self.objective = BlockObjective(samples.wanted)


def _answer(part: Network, named: Mapping[str, Tensor]) -> Tensor:
    """The first output of a part for those of a network's inputs that it takes."""
    with torch.no_grad():
        found = part.graph(*(named[tensor.name] for tensor in part.inputs))
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first


def _bytes(values: list[tuple[Tensor, ...]]) -> int:
    return sum(value.nbytes for each in values for value in each)
