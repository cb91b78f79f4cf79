"""`/v1/methods`."""

from fastapi import APIRouter

from api.deps import Reader
from core.resources.system import MethodList
from core.services import methods

router = APIRouter(prefix="/v1/methods", tags=["methods"])


@router.get("")
def list_methods(_: Reader) -> MethodList:
    """Every way to compress, with the JSON Schema of its settings."""
    return methods.list_()
