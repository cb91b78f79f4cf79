"""`prune.layers`: residual blocks and transformer layers that the answers hardly need are left out."""

from collections.abc import Sequence
from typing import Annotated, final

from pydantic import BaseModel, Field, JsonValue, ValidationError

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.block_goal import BlockClock, BlockGoal, open_clock
from core.compression.prune.timing import Timing
from core.compression.sensitivity import effort_for, measure_sensitivity
from core.compression.yardstick import Yardstick, choosing_split
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.network import Network
from core.network.surgery import Block, choose_blocks, drop_blocks, find_blocks
from core.specs.structured_pruning import LayerPruning
from core.verdict import Sensitivity


class _Recorded(BaseModel):
    left_out: Annotated[tuple[str, ...], Field(min_length=1)]
    latency: Timing | None = None


@final
class LayerPruner(Method[LayerPruning]):
    """Leaves out the blocks without which the answers change least, one after the other."""

    def apply(self, network: Network, spec: LayerPruning, context: Context) -> tuple[Network, Report]:
        """A copy of fewer blocks; raises `unsupported_layer`, `missing_data`."""
        with open_clock(network, spec.keep, context) as clock:
            return self._leave_out(network, spec, context, clock)

    def _leave_out(
        self, network: Network, spec: LayerPruning, context: Context, clock: BlockClock | None
    ) -> tuple[Network, Report]:
        blocks = find_blocks(network)
        free = _free(blocks, spec)
        goal = BlockGoal(network, tuple(blocks), spec.keep, clock)
        recorded = _recorded(context)
        names = None if recorded is None else list(recorded.left_out)
        alone: dict[str, Sensitivity] = {}
        if spec.criterion == "even":
            names = names or _spread_enough(free, goal)
        else:
            # Of a plan that is repeated only what each block costs alone is measured.
            tried, alone = _search(network, free, goal, spec, context, most=None if names is None else 1)
            names = names or tried
        gone = [block for block in blocks if block.name in set(names)]
        context.log(f"{len(gone)} of {len(blocks)} blocks are left out: {', '.join(block.name for block in gone)}.")
        plan: dict[str, JsonValue] = {"left_out": list[JsonValue](block.name for block in gone)}
        timing = goal.timing(names) if recorded is None else recorded.latency
        if timing is None:
            findings = () if goal.is_reached(names) else (goal.missed(names),)
        else:
            timing.tell(context)
            plan["latency"] = timing.model_dump()
            findings = () if timing.reached else (timing.missed(),)
        result = drop_blocks(network, names)
        context.progress(1.0, f"{len(gone)} blocks left out")
        layers = tuple(layer for block in gone for layer in block.layers)
        return result, Report(layers=layers, sensitivities=alone, findings=findings, plan=plan)


def _recorded(context: Context) -> _Recorded | None:
    """What the plan says; None without a plan. Raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        return _Recorded.model_validate(dict(context.recorded))
    except ValidationError as error:
        sentence = f"The plan does not say which blocks {context.step} left out."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error


def _spread_enough(free: Sequence[Block], goal: BlockGoal) -> list[str]:
    """The fewest blocks over the whole depth that are enough, or all that may go."""
    counts = range(1, min(goal.count, len(free)) + 1)
    tried: list[str] = []
    for count in counts:
        tried = _spread(free, count)
        if goal.is_reached(tried):
            break
    return tried


def _spread(free: Sequence[Block], count: int) -> list[str]:
    """So many of the blocks that may go, over the whole depth."""
    if count == len(free):
        return [block.name for block in free]
    return list(choose_blocks(free, 1 - count / len(free)))


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
    network: Network,
    free: Sequence[Block],
    goal: BlockGoal,
    spec: LayerPruning,
    context: Context,
    *,
    most: int | None = None,
) -> tuple[list[str], dict[str, Sensitivity]]:
    """The names of the blocks that go, in order, and what each costs alone, by the first of its layers."""
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    count = min(goal.count, len(free)) if most is None else most
    asked = sum(len(free) - step for step in range(count))
    size = network.inputs[0].shape[0] if network.inputs[0].shape else 1
    effort = effort_for(asked, describe(network).macs, size if isinstance(size, int) else 1, most=spec.samples)
    # Each block is tried once, however large the network is.
    trials, done = max(effort.layers, len(free)), 0
    if trials < asked or effort.samples < min(spec.samples, dataset.count(split)):
        context.log(f"The network is large: blocks are tried {trials} times, on {effort.samples} samples.")
    yardstick = Yardstick(network, dataset, split=split, limit=effort.samples)
    gone: list[str] = []
    alone: dict[str, Sensitivity] = {}
    scores: dict[str, float] = {}
    for _ in range(count):
        left = [block for block in free if block.name not in gone]
        scores = {block.name: scores.get(block.name, 0.0) for block in left}
        # What was found last decides where trying all that is left again would take too long.
        for block in left if done + len(left) <= trials else ():
            context.progress(0.95 * done / trials, f"Trying to do without {block.name}")
            done += 1
            found = _judge(yardstick, drop_blocks(network, [*gone, block.name]))
            scores[block.name] = found.sqnr_db or 0.0
            if not gone:
                alone[block.layers[0]] = found
                context.metric("sqnr", scores[block.name], unit="dB", split=split, layer=block.layers[0])
        gone.append(max(scores, key=lambda name: scores[name]))
        if goal.is_reached(gone):
            break
    return gone, alone


def _judge(yardstick: Yardstick, network: Network) -> Sensitivity:
    """What a network costs; no increase and −200 dB where its answers are no numbers, so that it is taken last."""
    return measure_sensitivity(lambda _: network, "", yardstick)
