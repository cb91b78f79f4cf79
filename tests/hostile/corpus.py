"""All hostile uploads."""

from collections.abc import Iterator

from tests.hostile.archives import archives
from tests.hostile.canary import Canary
from tests.hostile.cases import Case
from tests.hostile.foreign import folders, foreign
from tests.hostile.graphs import graphs
from tests.hostile.tables import tables


def corpus(canary: Canary) -> Iterator[Case]:
    """Every case, made when it is asked for: some are large."""
    for family in (foreign, archives, graphs, folders, tables):
        yield from family(canary)
