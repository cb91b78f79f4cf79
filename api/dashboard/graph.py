"""The graph of a model, drawn by netron's own page; netron is served from its package, nothing comes from elsewhere."""

import re
from html import escape
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from api.dashboard.rendering import PageRoute, Seen
from core.errors import ModelpressError
from core.resources.model import Model
from core.services import models

router = APIRouter(route_class=PageRoute)

# Netron sets styles from its scripts, and shows images and starts workers from blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
ASSETS = frozenset({".js", ".json", ".css", ".png", ".ico"})
# What netron reads best, first.
DRAWABLE = (".onnx", ".pt2", ".safetensors", ".zip")
_META = re.compile(r'<meta name="(version|date)" content="[^"]*">')


# Before `/netron/{model_id}`, which would take it for an id.
@router.get("/netron/{name}.{kind}")
async def load_part(name: str, kind: str, request: Request) -> Response:
    """A script or picture of netron; its Python files are not for browsers."""
    if f".{kind}" not in ASSETS:
        raise ModelpressError("not_found", f"There is nothing at {request.url.path}.")
    answer = await StaticFiles(directory=_folder()).get_response(f"{name}.{kind}", request.scope)
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


@router.get("/netron/{model_id}")
def show_graph(model_id: str, view: Seen) -> Response:
    """The graph of one model."""
    page = HTMLResponse(graph_page(models.get(view.session, view.tenant, model_id)))
    page.headers["Content-Security-Policy"] = POLICY
    # Without it netron asks a host outside where the reader is, to know whether to ask for consent.
    page.set_cookie("consent", "1", path="/netron", samesite="lax")
    return page


def graph_page(model: Model) -> str:
    """Netron's page for this model and no other.

    Its version is taken away, so that it reports nothing, and its date, so that it never refuses to run for its age.
    """
    address, identifier = drawn_file(model)
    # Netron takes the address as relative to its page, and wants to see an ending that it knows.
    file = f"..{address}#{quote(identifier)}"
    told = (("version", "0.0.0"), ("file", file), ("identifier", identifier), ("name", model.name))
    metas = "\n".join(f'<meta name="{name}" content="{escape(content)}">' for name, content in told)
    plain = _META.sub("", (_folder() / "index.html").read_text(encoding="utf-8"))
    return plain.replace("<title>Netron</title>", f"{metas}\n<title>{escape(model.name)} · Modelpress</title>", 1)


def drawn_file(model: Model) -> tuple[str, str]:
    """Where the file to draw is, and a name whose ending tells netron how to read it."""
    named = [file.filename for ending in DRAWABLE for file in model.files if file.filename.lower().endswith(ending)]
    filename = named[0] if named else model.filename
    known = model.format in ("onnx", "pt2") and len(model.files) == 1
    return (
        f"{model.content_url}?filename={quote(filename, safe='')}",
        f"{Path(filename).stem}.{model.format}" if known else filename,
    )


def _folder() -> Path:
    found = find_spec("netron")
    if found is None or found.origin is None:
        raise ModelpressError("not_found", "The package that draws graphs is not installed: `pip install netron`.")
    return Path(found.origin).parent
