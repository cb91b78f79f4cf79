import pytest

from api.dashboard.patches import apply
from core.errors import ModelpressError

DOCUMENT = {"steps": [{"keep": ["a", "b"], "samples": 64}], "limits": {}}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "replace", "path": "/steps/0/samples", "value": 512}, {"keep": ["a", "b"], "samples": 512}),
        ({"op": "remove", "path": "/steps/0/keep/1"}, {"keep": ["a"], "samples": 64}),
        ({"op": "add", "path": "/steps/0/keep/-", "value": "c"}, {"keep": ["a", "b", "c"], "samples": 64}),
        ({"op": "add", "path": "/steps/0/x~1y", "value": 1}, {"keep": ["a", "b"], "samples": 64, "x/y": 1}),
    ],
)
def test_operations(operation: dict[str, object], expected: dict[str, object]) -> None:
    assert apply([operation], DOCUMENT)["steps"] == [expected]
    assert DOCUMENT["steps"] == [{"keep": ["a", "b"], "samples": 64}]


@pytest.mark.parametrize(
    "operation",
    [{"op": "remove", "path": "/steps/4"}, {"op": "move", "path": "/steps/0"}, {"op": "remove", "path": "/nothing"}],
)
def test_what_does_not_fit_is_refused(operation: dict[str, object]) -> None:
    with pytest.raises(ModelpressError):
        apply([operation], DOCUMENT)
