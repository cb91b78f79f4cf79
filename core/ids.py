"""Ids: a prefix that says what the object is, and a UUIDv7 in Crockford's base32 (the TypeID specification)."""

from typing import Literal

from typeid import TypeID

Prefix = Literal["upl", "mdl", "dst", "job", "stp", "art", "whk", "dlv", "evt", "key", "tnt", "ses", "req"]


def new_id(prefix: Prefix) -> str:
    """A new id such as `job_01m85y1n63ehrapmmxchatf74m`; ids made later sort later."""
    return str(TypeID(prefix=prefix))
