"""What several rounds decided, as if it had been one: what is read in a plan of what became of layers."""

from collections.abc import Sequence

from pydantic import JsonValue

from core.compression.prune.channel_map import compose

Plan = dict[str, JsonValue]


def join_masks(plans: Sequence[Plan]) -> Plan:
    """The last: its shares are of all weights."""
    return plans[-1]


def join_channels(plans: Sequence[Plan]) -> Plan:
    """Which of the first outputs are left; what each round kept of its groups is said by the rounds."""
    maps = [plan["outputs"] for plan in plans]
    composed = compose(each for each in maps if isinstance(each, dict))  # type: ignore[misc]  # JSON, as it was written
    return {"outputs": {layer: list[JsonValue](kept) for layer, kept in composed.items()}}


def join_blocks(plans: Sequence[Plan]) -> Plan:
    """All blocks that were left out."""
    names: list[JsonValue] = []
    for plan in plans:
        gone = plan["left_out"]
        names += gone if isinstance(gone, list) else []
    return {"left_out": names}
