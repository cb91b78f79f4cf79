"""`prune.layers`: residual blocks and transformer layers that the answers hardly need are left out."""

from collections.abc import Sequence
from typing import final

from pydantic import JsonValue

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.yardstick import Yardstick, choosing_split
from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery import Block, choose_blocks, drop_blocks, find_blocks
from core.specs.prune import LayerPruning
from core.verdict import Sensitivity


@final
class LayerPruner(Method[LayerPruning]):
    """Leaves out the blocks without which the answers change least, one after the other."""

    def apply(self, network: Network, spec: LayerPruning, context: Context) -> tuple[Network, Report]:
        """A copy of fewer blocks; raises `unsupported_layer`, `missing_data`."""
        blocks = find_blocks(network)
        free = _free(blocks, spec)
        count = min(max(len(blocks) - round(spec.keep * len(blocks)), 1), len(free), len(blocks) - 1)
        if spec.criterion == "even":
            names = [name for name in choose_blocks(blocks, spec.keep) if name not in spec.protect][:count]
            alone: dict[str, Sensitivity] = {}
        else:
            names, alone = _search(network, free, count, spec, context)
        gone = [block for block in blocks if block.name in set(names)]
        context.log(f"{len(gone)} of {len(blocks)} blocks are left out: {', '.join(block.name for block in gone)}.")
        layers = tuple(layer for block in gone for layer in block.layers)
        plan: dict[str, JsonValue] = {"left_out": list[JsonValue](block.name for block in gone)}
        context.progress(1.0, f"{len(gone)} blocks left out")
        return drop_blocks(network, names), Report(layers=layers, sensitivities=alone, plan=plan)


def _free(blocks: Sequence[Block], spec: LayerPruning) -> list[Block]:
    """The blocks that may go; raises `unsupported_layer` where there are none, or a protected one is none."""
    names = [block.name for block in blocks]
    if len(blocks) < 2:
        why = (
            "has no residual blocks or transformer layers"
            if not blocks
            else f"has only {names[0]}, and one has to stay"
        )
        raise ModelpressError("unsupported_layer", f"This network {why}, so that nothing can be left out.")
    if unknown := sorted(set(spec.protect) - set(names)):
        hint = f"Its blocks: {', '.join(names)[:500]}."
        raise ModelpressError("invalid_request", f"protect names no block: {', '.join(unknown)}.", hint=hint)
    free = [block for block in blocks if block.name not in spec.protect]
    if not free:
        raise ModelpressError("unsupported_layer", "Every block that could be left out is protected.")
    return free


def _search(
    network: Network, free: Sequence[Block], count: int, spec: LayerPruning, context: Context
) -> tuple[list[str], dict[str, Sensitivity]]:
    """The names of the blocks that go, in order, and what each costs alone, by the first of its layers."""
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    yardstick = Yardstick(network, dataset, split=split, limit=spec.samples)
    gone: list[str] = []
    alone: dict[str, Sensitivity] = {}
    trials, done = sum(len(free) - step for step in range(count)), 0
    for _ in range(count):
        scores = {}
        for block in free:
            if block.name in gone:
                continue
            context.progress(0.95 * done / trials, f"Trying to do without {block.name}")
            done += 1
            score = yardstick.score(drop_blocks(network, [*gone, block.name]))
            scores[block.name] = score.sqnr_db
            if not gone:
                alone[block.layers[0]] = Sensitivity(
                    loss_increase=score.loss - yardstick.original.loss, sqnr_db=score.sqnr_db
                )
                context.metric("sqnr", score.sqnr_db, unit="dB", split=split, layer=block.layers[0])
        gone.append(max(scores, key=lambda name: scores[name]))
    return gone, alone
