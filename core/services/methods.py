"""The methods there are, told from their specs."""

from functools import cache

from core.resources.system import Method, MethodList
from core.specs.base import Spec
from core.specs.methods import METHODS, method_name


@cache
def list_() -> MethodList:
    """Every method, in the order of the families."""
    return MethodList(data=tuple(describe(spec) for spec in METHODS))


def describe(spec: type[Spec]) -> Method:
    """One method: what it is, what it needs, and the JSON Schema of its settings."""
    name = method_name(spec)
    return Method(
        name=name,
        title=spec.title,
        family=spec.family,
        summary=(spec.__doc__ or "").partition("\n")[0],
        needs=spec.needs,
        json_schema=spec.model_json_schema(),
        defaults=spec.model_validate({"method": name}).model_dump(mode="json"),
        example=spec.model_validate(spec.example).model_dump(mode="json", exclude_unset=True),
    )
