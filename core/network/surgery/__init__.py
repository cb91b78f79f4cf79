"""Surgery: which channels, heads and blocks can be removed, what that saves, and removing them from a copy."""

from core.network.surgery.channels import Channels, Group, Member, Protected, resize
from core.network.surgery.thinning import magnitude, round_width, thin

__all__ = ["Channels", "Group", "Member", "Protected", "magnitude", "resize", "round_width", "thin"]
