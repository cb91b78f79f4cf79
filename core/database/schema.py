"""Brings a database to the newest schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config

import migrations


def configuration(url: str) -> Config:
    """Alembic's configuration for the database at `url`."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Applies every migration that the database at `url` has not seen."""
    command.upgrade(configuration(url), revision)
