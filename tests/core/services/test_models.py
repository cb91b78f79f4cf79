import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.database.tables import OutboxRow
from core.errors import ModelpressError
from core.resources.model import DatasetCreate, ModelCreate, Rename
from core.services import datasets, jobs, models, uploads
from tests.conftest import make_tenant
from tests.core.services.makers import SHA, make_dataset, make_job, make_model, make_upload


def test_an_upload_is_read_back(tenant: str, session: Session) -> None:
    made = uploads.record(session, tenant, "a\nb/../net.onnx", SHA, 12)
    assert uploads.get(session, tenant, made.id) == made
    assert made.filename == "ab/../net.onnx"
    assert made.id.startswith("upl_")


def test_a_new_model_waits_for_its_inspection(tenant: str) -> None:
    upload = make_upload(tenant, "lenet.v2.onnx")
    with transaction() as session:
        made = models.create(session, tenant, ModelCreate(uploads=(upload,), metadata={"team": "vision"}))
    with transaction() as session:
        assert models.get(session, tenant, made.id) == made
        assert session.scalars(select(OutboxRow.task)).all() == ["inspect"]
    assert (made.name, made.state, made.metadata) == ("lenet.v2", "inspecting", {"team": "vision"})
    assert made.capabilities == {}


def test_a_ready_model_shows_what_inspection_found(tenant: str, database: str) -> None:
    identifier = make_model(tenant)
    with transaction() as session:
        model = models.get(session, tenant, identifier)
        assert model.capabilities["quantize.linear"].layers == ("conv1", "fc1")
        assert model.parameters == 8790
        table = models.layers(session, tenant, identifier)
        assert [layer.name for layer in table.data] == ["conv1", "fc1"]
        assert sum(layer.parameters for layer in table.data) + table.other_parameters == model.parameters
        assert sum(layer.macs for layer in table.data) + table.other_macs == model.macs
        assert sum(layer.share_of_parameters for layer in table.data) == pytest.approx(1, abs=1e-5)


def test_uploads_of_others_cannot_be_used(tenant: str) -> None:
    foreign = make_upload(make_tenant())
    for asked in (
        lambda session: models.create(session, tenant, ModelCreate(uploads=(foreign,))),
        lambda session: datasets.create(
            session, tenant, DatasetCreate(uploads=(foreign,), task="none", splits={"train": {"x": "x"}})
        ),
    ):
        with transaction() as session, pytest.raises(ModelpressError) as caught:
            asked(session)
        assert (caught.value.code, caught.value.pointer) == ("not_found", "/uploads/0")


def test_lists_are_pages_newest_first(tenant: str) -> None:
    made = [make_model(tenant) for _ in range(5)]
    with transaction() as session:
        first = models.list_(session, tenant, limit=3)
        second = models.list_(session, tenant, limit=3, after=first.next)
    assert [model.id for model in (*first.data, *second.data)] == made[::-1]
    assert (first.has_more, second.has_more, second.next) == (True, False, None)


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_a_page_has_a_sane_size(tenant: str, session: Session, limit: int) -> None:
    with pytest.raises(ModelpressError, match="limit"):
        models.list_(session, tenant, limit=limit)


def test_metadata_is_merged_and_empty_values_remove(tenant: str) -> None:
    identifier = make_model(tenant)
    with transaction() as session:
        models.rename(session, tenant, identifier, Rename(name="new", metadata={"a": "1", "b": "2"}))
        changed = models.rename(session, tenant, identifier, Rename(metadata={"a": "", "c": "3"}))
    assert (changed.name, changed.metadata) == ("new", {"b": "2", "c": "3"})


def test_deleted_ones_leave_the_list_and_cannot_be_used(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    with transaction() as session:
        models.delete(session, tenant, model)
        datasets.delete(session, tenant, dataset)
    with transaction() as session:
        assert models.list_(session, tenant).data == ()
        assert datasets.list_(session, tenant).data == ()
        assert models.get(session, tenant, model).state == "deleted"


def test_what_an_unfinished_job_uses_is_not_deleted(tenant: str) -> None:
    job = make_job(tenant)
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        for delete, identifier in ((models.delete, shown.model), (datasets.delete, shown.dataset)):
            with pytest.raises(ModelpressError) as caught:
                delete(session, tenant, identifier)
            assert caught.value.code == "conflict"
        jobs.cancel(session, tenant, job)
        models.delete(session, tenant, shown.model)


def test_a_nul_in_an_id_is_only_not_found(tenant: str, session: Session) -> None:
    with pytest.raises(ModelpressError, match="no object"):
        models.get(session, tenant, "mdl_\x00")
    assert session.scalar(select(func.count())) == 1
