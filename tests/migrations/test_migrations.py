import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from core.database.schema import configuration, upgrade
from core.database.session import make_engine
from core.database.tables import Table
from tests.conftest import administer, with_database


@pytest.fixture
def empty(postgres: str) -> Iterator[str]:
    administer(postgres, "CREATE DATABASE {}", "modelpress_test_empty")
    yield with_database(postgres, "modelpress_test_empty")
    administer(postgres, "DROP DATABASE {} WITH (FORCE)", "modelpress_test_empty")


def tables(url: str) -> set[str]:
    engine = make_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(configuration("postgresql://unused/")).get_heads()) == 1


def test_the_schema_is_that_of_the_tables(empty: str) -> None:
    upgrade(empty)
    assert tables(empty) == {*Table.metadata.tables, "alembic_version"}
    command.check(configuration(empty))


def test_going_down_and_up_again_ends_where_it_began(empty: str) -> None:
    upgrade(empty)
    command.downgrade(configuration(empty), "base")
    assert tables(empty) == {"alembic_version"}
    upgrade(empty)
    command.check(configuration(empty))


def test_upgrading_twice_at_once_makes_one_schema(empty: str) -> None:
    program = "import sys; from core.database.schema import upgrade; upgrade(sys.argv[1])"
    running = [subprocess.Popen([sys.executable, "-c", program, empty]) for _ in range(2)]
    assert [process.wait(30) for process in running] == [0, 0]
    command.check(configuration(empty))
