"""Alembic's environment: runs the migrations on one connection, online only."""

import os

from alembic import context

from core.database.session import make_engine
from core.database.tables import Table


def migrate() -> None:
    """Runs the migrations on the URL that the caller gave, or on DATABASE_URL."""
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    engine = make_engine(url)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
        with context.begin_transaction():
            # Two processes that start at once must not both migrate.
            context.get_context().execute("SELECT pg_advisory_xact_lock(20260701)")
            context.run_migrations()
    engine.dispose()


migrate()
