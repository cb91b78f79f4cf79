"""Prepares a service: `python -m api.setup` migrates the database and makes the first tenant.

It prints one JSON line: `tenant`, with `--link` a one-time `sign_in_url`, with `--key NAME` a new `key` of all scopes.
"""

import argparse
import json
import sys

from core.database.schema import upgrade
from core.database.session import transaction
from core.resources.system import SCOPES, KeyCreate
from core.services import keys, sign_in
from core.settings import settings


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks; safe to repeat."""
    parser = argparse.ArgumentParser(prog="python -m api.setup", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--link", action="store_true", help="make a one-time sign-in link")
    parser.add_argument("--key", metavar="NAME", help="make an API key of all scopes with this name")
    asked = parser.parse_args(arguments)
    upgrade(settings().database_url)
    answer: dict[str, str] = {}
    with transaction() as session:
        tenant = sign_in.ensure_tenant(session)
        answer["tenant"] = tenant
        if asked.link:
            token = sign_in.create_link(session, tenant)
            answer["sign_in_url"] = f"{settings().public_url.rstrip('/')}/sign-in?token={token}"
        if asked.key:
            answer["key"] = keys.create(session, tenant, KeyCreate(name=asked.key, scopes=SCOPES)).token
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
