"""Surgery: which channels, heads and blocks can be removed, what that saves, and removing them from a copy."""

from core.network.surgery.blocks import Block, find_blocks
from core.network.surgery.channels import Channels, Group, Member, Protected, resize
from core.network.surgery.depth import choose_blocks, drop_blocks
from core.network.surgery.thinning import choose_widths, magnitude, outer_groups, round_width, thin
from core.network.surgery.widths import Costs

__all__ = [
    "Block",
    "Channels",
    "Costs",
    "Group",
    "Member",
    "Protected",
    "choose_blocks",
    "choose_widths",
    "drop_blocks",
    "find_blocks",
    "magnitude",
    "outer_groups",
    "resize",
    "round_width",
    "thin",
]
