"""A canary, and the stand that uploads go through."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.canary import Canary, set_out
from tests.hostile.stand import Stand
from tests.hostile.stand import stand as open_stand

GULLIBLE = {
    "MODELPRESS_RUNNER_MODULE": "tests.hostile.gullible_runner",
    "MODELPRESS_INSPECT_SECONDS": "6",
    "MODELPRESS_INSPECT_MEMORY_BYTES": str(400 << 20),
    "MODELPRESS_SCRATCH_BYTES": str(64 << 20),
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    # Whoever is fooled outside of a sandbox may reach it, whatever user the runner is.
    folder = tmp_path / "host"
    folder.mkdir()
    folder.chmod(0o777)
    with set_out(folder) as made:
        yield made


@pytest.fixture
def stand(database: str) -> Iterator[Stand]:
    with open_stand({"MODELPRESS_RUNNER_MODULE": "runner"}) as opened:
        yield opened


@pytest.fixture
def gullible(database: str) -> Iterator[Stand]:
    """A stand whose runner unpickles what it is given."""
    with open_stand(GULLIBLE) as opened:
        yield opened
