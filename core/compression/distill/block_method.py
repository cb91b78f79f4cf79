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
from core.compression.distill.block_progress import BlockProgress
from core.compression.distill.block_samples import BlockObjective, Samples, collect_samples
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
from core.compression.distill.student import teacher_of
from core.compression.method import Method, Report
from core.compression.train.feeding import fixed_batch
from core.compression.train.mount import TrainableNetwork
from core.compression.train.updates import Learner, rate_at
from core.findings import make_finding
from core.network.network import Network
from core.network.share import copy_graph
from core.specs.distill import BlockDistillation
from core.specs.train import Training

# How often a block is judged while it learns.
JUDGEMENTS = 10
# Learning rates that are tried on each block, and the updates of each trial.
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
TRIAL = 24
_ORDER = 0xB10C


@final
class BlockMethod(Method[BlockDistillation]):
    """Carries out `distill.blocks` (as in BRECQ, arXiv 2102.05426, section 3.2: the error of a block's output)."""

    def apply(self, network: Network, spec: BlockDistillation, context: Context) -> tuple[Network, Report]:
        """Blocks in order, each on what the blocks before it give by then."""
        teacher = teacher_of(spec, network, context)
        blocks, told = _choose_blocks(network, teacher)
        for line in told:
            context.log(line)
        if not blocks:
            text = (
                "Every block is as in the teacher, or shares its weights with another one: there is nothing to learn."
            )
            return network, Report(layers=(), findings=(make_finding("nothing_to_learn", text),))
        result = replace(network, graph=copy_graph(network.graph), encodings=dict(network.encodings))
        progress = BlockProgress.restored(context.checkpoint)
        if progress.plan:
            context.log(f"Goes on after {len(progress.plan)} of {len(blocks)} blocks.")
        for number, block in enumerate(blocks):
            part = replace(context, span=_part(context.span, number, len(blocks)))
            pupil = _Pupil(result, teacher, block, spec, part)
            if number < len(progress.plan):
                pupil.take(progress.weights_of(number))
                continue
            part.progress(0.0, f"Block {number + 1} of {len(blocks)}, {block.name}")
            progress.add(*pupil.learn(number))
            if context.checkpoint.due():
                progress.keep(context.checkpoint)
        return result, Report(layers=differing_layers(network, result), plan={"blocks": progress.plan})


def _choose_blocks(network: Network, teacher: Network) -> tuple[list[Block], list[str]]:
    """The blocks that learn, and why others do not."""
    changed, shared = changed_layers(network, teacher), shared_layers(network)
    chosen, told = [], []
    for block in find_blocks(network, teacher):
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
    teacher: Network
    block: Block
    spec: BlockDistillation
    context: Context

    def learn(self, number: int) -> tuple[dict[str, JsonValue], dict[str, Tensor]]:
        """Train the block and put it back if it became better; gives what was decided, and its weights if put back."""
        dataset = self.context.needed_dataset()
        samples = collect_samples((self.result, self.teacher), self.block, dataset, limit=self.spec.samples)
        task = _Task(self._part(), self._latent(), samples, number)
        before = self._judge(TrainableNetwork(task.part), task)
        rate = self.spec.lr if isinstance(self.spec.lr, float) else self._choose_rate(task)
        steps = max(round(self.spec.epochs * samples.learning / self._batch_size(task)), 1)
        mounted, after = self._train(task, rate=rate, steps=steps, judgements=JUDGEMENTS)
        kept = after < before
        weights = {name: value.detach().clone() for name, value in mounted.state_dict().items()} if kept else {}
        if kept:
            put_back(self.result, mounted.unmount())
        self.context.log(
            f"Block from {self.block.name}: error {before:.3g}, after {steps} updates {after:.3g} of the mean square"
            f"{'' if kept else ', so it stays as it was'}; learning rate {rate:g}, {len(samples.wanted)} samples."
        )
        name = self.block.end or "outputs"
        self.context.metric("block_error", min(after, before), split="calibration", layer=name)
        decided: dict[str, JsonValue] = {"block": name, "lr": rate, "steps": steps, "kept": kept}
        return decided | {"samples": len(samples.wanted)}, weights

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Give the block the weights that `learn` once gave; none leave it as it is."""
        if weights:
            mounted = self._mount(self._part(), self._latent())
            mounted.load_state_dict(dict(weights))
            put_back(self.result, mounted.unmount())

    def _part(self) -> Network:
        return cut_out(self.result, self.block.start, self.block.end)

    def _latent(self) -> dict[str, Tensor]:
        """The original's weights beneath those that are encoded: from there, a step to the next level is rarely far.

        Weights that begin on their levels are all as far from the next ones, and those with like gradients change at
        once: at 3 bits that threw a product from 0.02 to 0.3.
        """
        original = self.context.original or self.teacher
        theirs = dict(original.graph.named_parameters(remove_duplicate=False))
        return {
            path: theirs[path].detach()
            for path, encoding in self.result.encodings.items()
            if path in theirs and theirs[path].shape == encoding.decode().shape
        }

    def _batch_size(self, task: "_Task") -> int:
        unit = fixed_batch(self.teacher) or 1
        return max(min(self.spec.batch_size, task.samples.learning) // unit, 1) * unit

    def _choose_rate(self, task: "_Task") -> float:
        """The rate whose short trial leaves the smallest error on the samples that judge."""
        errors = [self._train(task, rate=rate, steps=TRIAL, judgements=1)[1] for rate in RATES]
        return min(zip(errors, RATES, strict=True), key=lambda each: (math.isnan(each[0]), each[0]))[1]

    def _train(self, task: "_Task", *, rate: float, steps: int, judgements: int) -> tuple[TrainableNetwork, float]:
        """The block as it was best when it was judged, with its error; rows come in an order by the seeds alone."""
        settings = Training(batch_size=self._batch_size(task), lr=rate, steps=steps, weight_decay=0.0)
        mounted = self._mount(task.part, task.latent)
        learner = Learner(mounted, task.objective, settings, fixed_batch(self.teacher) or settings.batch_size)
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

    def _mount(self, part: Network, latent: Mapping[str, Tensor]) -> TrainableNetwork:
        mounted = TrainableNetwork(part, latent=latent)
        mounted.follow_batches(follow=False)
        grids = shared_grids(self.result) & dict(mounted.graph.named_modules()).keys()
        for grid in grids:
            # Other blocks round on it too.
            mounted.graph.get_submodule(grid).requires_grad_(requires_grad=False)
        return mounted

    def _judge(self, mounted: TrainableNetwork, task: "_Task") -> float:
        """The error on the samples that judge."""
        total, samples = 0.0, task.samples
        batch = fixed_batch(self.teacher) or self.spec.batch_size
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
