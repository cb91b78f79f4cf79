"""No function of a service shows or changes what belongs to another tenant."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text

import core
from core.database import tables
from core.database.session import transaction
from core.database.tables import Owned
from core.errors import ModelpressError
from core.resources.model import Rename
from core.resources.system import KeyCreate
from core.resources.webhook import WebhookCreate
from core.services import (
    artifacts,
    attempts,
    datasets,
    events,
    jobs,
    keys,
    models,
    plans,
    stream,
    uploads,
    webhooks,
)
from core.settings import settings
from tests.conftest import make_tenant
from tests.core.services.makers import ask, make_artifacts, make_job, make_upload, make_verdict

ROOT = Path(core.__file__).parent.parent
NEW_NAME = Rename(name="stolen")

Objects = dict[str, str]

# What each function that takes an id of a tenant's object is called with.
BY_ID: dict[Callable[..., object], Callable[[Objects], tuple[Any, ...]]] = {
    uploads.get: lambda ids: (ids["upload"],),
    models.get: lambda ids: (ids["model"],),
    models.layers: lambda ids: (ids["model"],),
    models.rename: lambda ids: (ids["model"], NEW_NAME),
    models.delete: lambda ids: (ids["model"],),
    datasets.get: lambda ids: (ids["dataset"],),
    datasets.rename: lambda ids: (ids["dataset"], NEW_NAME),
    datasets.delete: lambda ids: (ids["dataset"],),
    jobs.create: lambda ids: (ask(ids["model"], ids["dataset"]),),
    jobs.plan: lambda ids: (ask(ids["model"], ids["dataset"]),),
    plans.plan: lambda ids: (ask(ids["model"], ids["dataset"]),),
    jobs.get: lambda ids: (ids["job"],),
    jobs.cancel: lambda ids: (ids["job"],),
    jobs.retry: lambda ids: (ids["job"],),
    jobs.rename: lambda ids: (ids["job"], NEW_NAME),
    jobs.metrics: lambda ids: (ids["job"],),
    artifacts.list_: lambda ids: (ids["job"],),
    artifacts.get: lambda ids: (ids["artifact"],),
    stream.after: lambda ids: (ids["job"], 0),
    stream.is_over: lambda ids: (ids["job"],),
    stream.last_lines: lambda ids: (ids["job"],),
    webhooks.get: lambda ids: (ids["webhook"],),
    webhooks.rename: lambda ids: (ids["webhook"], NEW_NAME),
    webhooks.delete: lambda ids: (ids["webhook"],),
    webhooks.rotate: lambda ids: (ids["webhook"],),
    webhooks.test: lambda ids: (ids["webhook"],),
    webhooks.deliveries: lambda ids: (ids["webhook"],),
    webhooks.redeliver: lambda ids: (ids["webhook"], ids["delivery"]),
    keys.revoke: lambda ids: (ids["key"],),
}

# What lists; a foreign tenant must get nothing.
LISTS: dict[Callable[..., Any], Callable[[Objects], dict[str, Any]]] = {
    models.list_: lambda ids: {},
    datasets.list_: lambda ids: {},
    jobs.list_: lambda ids: {"model": ids["model"]},
    events.list_: lambda ids: {"subject": ids["job"]},
    webhooks.list_: lambda ids: {},
    keys.list_: lambda ids: {},
}

# What makes something new of nothing that is owned, or is tested beside this table.
FREE = {uploads.record, models.create, datasets.create, webhooks.create, keys.create}
TESTED_ELSEWHERE = {uploads.take, webhooks.deliveries_about, plans.gather}

MODULES: tuple[ModuleType, ...] = (
    artifacts,
    datasets,
    events,
    jobs,
    keys,
    models,
    plans,
    stream,
    uploads,
    webhooks,
)


@pytest.fixture
def mine(tenant: str, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """One of each thing, all of one tenant."""
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    settings.cache_clear()
    with transaction() as session:
        webhook = webhooks.create(session, tenant, WebhookCreate(url="http://127.0.0.1:9/")).id
        key = keys.create(session, tenant, KeyCreate(name="mine")).id
    job = make_job(tenant)
    with transaction() as session:
        claim = attempts.claim(session, "one")
        assert claim is not None
        attempts.finish(session, claim.lease, make_verdict(), make_artifacts())
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        delivery = webhooks.deliveries(session, tenant, webhook).data[0].id
    return {
        "upload": make_upload(tenant),
        "model": shown.model,
        "dataset": str(shown.dataset),
        "job": job,
        "artifact": shown.artifacts[0].id,
        "webhook": webhook,
        "delivery": delivery,
        "key": key,
    }


def fingerprint() -> list[object]:
    """All that is in the tables of tenants."""
    names = [name for name, table in tables.Table.metadata.tables.items() if "tenant_id" in table.columns]
    with transaction() as session:
        return [
            session.execute(text(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} t")).scalar()
            for name in sorted(names)
        ]


def test_what_belongs_to_others_looks_as_if_it_were_not_there(mine: Objects) -> None:
    other = make_tenant()
    before = fingerprint()
    for function, arguments in BY_ID.items():
        found = refusal(function, other, arguments(mine))
        nothing = refusal(function, other, arguments({name: f"{value[:4]}nothing" for name, value in mine.items()}))
        assert found.code == nothing.code == "not_found", function
        assert found.pointer == nothing.pointer
    assert fingerprint() == before


def refusal(function: Callable[..., object], tenant: str, arguments: tuple[Any, ...]) -> ModelpressError:
    with transaction() as session, pytest.raises(ModelpressError) as caught:
        function(session, tenant, *arguments)
    return caught.value


def test_lists_show_nothing_of_others(mine: Objects, tenant: str) -> None:
    other = make_tenant()
    with transaction() as session:
        for function, arguments in LISTS.items():
            assert function(session, other, **arguments(mine)).data == (), function
            assert function(session, tenant, **arguments(mine)).data != (), function
        assert webhooks.deliveries_about(session, other, mine["job"]) == []
        assert webhooks.deliveries_about(session, tenant, mine["job"]) != []


def test_the_owner_can_do_all_of_it(mine: Objects, tenant: str) -> None:
    """Otherwise the refusals above would prove nothing."""
    for function, arguments in BY_ID.items():
        if function in (jobs.cancel, models.delete, datasets.delete, webhooks.delete):
            continue
        with transaction() as session:
            function(session, tenant, *arguments(mine))


def test_every_function_on_behalf_of_a_tenant_is_in_the_table() -> None:
    known = {*BY_ID, *LISTS, *FREE, *TESTED_ELSEWHERE}
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and "tenant" in inspect.signature(function).parameters:
                assert function in known, f"{module.__name__}.{name} needs a row"


def test_queries_are_made_in_services_only() -> None:
    """Routes, pages and workers go through a function that knows the tenant."""
    owned = {name for name, value in vars(tables).items() if inspect.isclass(value) and issubclass(value, Owned)}
    for folder in ("api", "workers", "modelpress", "launch", "runner"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imported = {
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module
                for alias in node.names
            }
            assert not imported & owned, f"{path} uses {sorted(imported & owned)}"
            assert not imported & {"select", "update", "delete", "insert"}, f"{path} makes queries"
