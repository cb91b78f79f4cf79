"""The complaints of pydantic as a sentence with a pointer into the request."""

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.errors import STATUS, explain
from core.errors import Kind
from core.resources.job import JobCreate
from core.resources.model import DatasetCreate
from core.specs.base import Asked


def complaint(model: type[Asked], body: object) -> tuple[str | None, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    wrapped = RequestValidationError(errors, body=body)
    explained = explain(wrapped.errors(), wrapped.body)
    assert explained.code == "invalid_request"
    return explained.pointer, explained.detail


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"model": "m"}, "/recipe"),
        ({"model": "m", "recipe": {"steps": []}}, "/recipe/steps"),
        (
            {"model": "m", "recipe": {"steps": [{"method": "quantize.linear", "sparcity": 1}]}},
            "/recipe/steps/0/sparcity",
        ),
        (
            {"model": "m", "recipe": {"steps": [{"method": "quantize.linear", "weights": {"bits": 9}}]}},
            "/recipe/steps/0/weights/bits",
        ),
        ({"model": "m", "recipe": {"steps": [{"method": "quantize.linear"}]}, "a/b~c": 1}, "/a~1b~0c"),
        ([], None),
    ],
)
def test_pointer_leads_into_the_body(body: object, pointer: str | None) -> None:
    assert complaint(JobCreate, body)[0] == pointer


def test_members_of_unions_are_no_steps() -> None:
    body = {"uploads": ["u"], "task": "none", "splits": {"x": "x", "fractions": {"train": "many"}}}
    pointer, detail = complaint(DatasetCreate, body)
    assert pointer is not None
    assert "[" not in pointer
    assert "FractionSplits" not in detail
    where: object = body
    for part in pointer.split("/")[1:-1]:
        assert isinstance(where, dict)
        where = where[part]


def test_every_kind_has_a_status() -> None:
    assert set(STATUS) == set(Kind)
