"""The graph page: netron's own, for one model, without its wishes for other hosts."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from core.database.session import transaction
from core.resources.model import ModelCreate, Rename
from core.services import models, uploads
from tests.api.conftest import User
from tests.api.dashboard.test_pages import ORIGIN, enter
from tests.api.world import CONTENT, World, build_world, store


@pytest.fixture
def world(alice: User) -> World:
    return build_world(alice.tenant)


@pytest.fixture
def page(database: str, alice: User) -> Iterator[TestClient]:
    with TestClient(create_app(), base_url="http://127.0.0.1", follow_redirects=False, headers=ORIGIN) as opened:
        enter(opened, alice.headers)
        yield opened


def metas(text: str) -> dict[str, str]:
    return dict(re.findall(r'<meta name="(\w+)" content="([^"]*)">', text))


def test_it_is_netrons_page_for_one_model(page: TestClient, world: World) -> None:
    answer = page.get(f"/netron/{world.ids['model']}")
    assert answer.status_code == 200
    told = metas(answer.text)
    assert (told["version"], told["identifier"], "date" in told) == ("0.0.0", "net.onnx", False)
    assert told["file"] == f"../v1/models/{world.ids['model']}/content?filename=net.onnx#net.onnx"
    assert page.get(told["file"].removeprefix("..")).content == CONTENT
    assert answer.cookies["consent"] == "1"
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "http" not in policy


def test_every_part_that_the_page_names_is_there(page: TestClient, world: World) -> None:
    text = page.get(f"/netron/{world.ids['model']}").text
    parts = set(re.findall(r'(?:src|href)="([\w.-]+\.(?:js|css|png|ico))"', text)) | {"view.js", "onnx-metadata.json"}
    assert len(parts) >= 5
    for part in parts:
        assert page.get(f"/netron/{part}").status_code == 200, part


@pytest.mark.parametrize("path", ["server.py", "__init__.py", "index.html", "..%2Fnetron%2Fserver.py", "nothing.js"])
def test_nothing_else_of_the_package_is_served(page: TestClient, path: str) -> None:
    assert page.get(f"/netron/{path}").status_code == 404


def test_a_strangers_model_is_not_drawn(page: TestClient, bob: User) -> None:
    foreign = build_world(bob.tenant).ids["model"]
    assert page.get(f"/netron/{foreign}").status_code == 404


def test_who_is_not_signed_in_signs_in(client: TestClient, world: World) -> None:
    path = f"/netron/{world.ids['model']}"
    assert client.get(path).headers["location"] == f"/sign-in?next={path}"


def test_a_name_cannot_leave_its_place(page: TestClient, alice: User, world: World) -> None:
    with transaction() as session:
        models.rename(session, alice.tenant, world.ids["model"], Rename(name='"><script>alert(1)</script>'))
    assert "<script>alert" not in page.get(f"/netron/{world.ids['model']}").text


def test_of_several_files_the_graph_is_drawn(page: TestClient, alice: User, database: str) -> None:
    weights, graph = b"weights" * 100, b"graph"
    with transaction() as session:
        kept = tuple(
            uploads.record(session, alice.tenant, name, store(content), len(content)).id
            for name, content in (("net.data", weights), ("net one.onnx", graph))
        )
        made = models.create(session, alice.tenant, ModelCreate(uploads=kept))
    assert page.get(metas(page.get(f"/netron/{made.id}").text)["file"].removeprefix("..")).content == graph
    whole = page.get(made.content_url)
    assert (whole.headers["content-type"], whole.content[:2]) == ("application/zip", b"PK")
    assert 'filename="net.data.zip"' in whole.headers["content-disposition"]
    assert page.get(made.content_url, params={"filename": "other"}).status_code == 404
