"""The task `deliver_webhook`: one try for each delivery that is due (Standard Webhooks 1.0.0)."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import httpx2
import structlog
from standardwebhooks import Webhook

from core.database.session import transaction
from core.errors import ModelpressError
from core.services import deliveries
from core.services.addresses import Target, check_url, parse_networks
from core.services.deliveries import Answer, DueDelivery
from core.settings import settings
from workers import presence

# All at once, so that a dead receiver delays nobody; few enough that a try ends long before its claim does.
_AT_ONCE = 20
_ANSWER_LIMIT = 64 * 1024
_CONNECT_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443}
_log = structlog.get_logger(__name__)


def deliver_webhook(subject_id: str) -> None:
    """Try what is due, not necessarily `subject_id`; do nothing when nothing is."""
    del subject_id
    if presence.draining.is_set():
        return
    with transaction() as session:
        batch = deliveries.claim_due(session, _AT_ONCE)
    if batch:
        asyncio.run(_deliver_all(batch))


async def _deliver_all(batch: list[DueDelivery]) -> None:
    await asyncio.gather(*(_deliver(due) for due in batch))


async def _deliver(due: DueDelivery) -> None:
    answer = await send(due)
    _log.info("webhook_tried", delivery=due.id, number=due.number, status=answer.status, error=answer.error)
    await asyncio.to_thread(_record, due, answer)


def _record(due: DueDelivery, answer: Answer) -> None:
    with transaction() as session:
        deliveries.record(session, due, answer)


async def send(due: DueDelivery) -> Answer:
    """Sign and post the stored bytes; whatever happens is an answer."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(settings().webhook_timeout_seconds):
            target = await asyncio.to_thread(check_url, due.url, parse_networks(settings().webhook_allow))
            return await _post(due, target, began)
    except TimeoutError:
        return _failed(f"No answer within {settings().webhook_timeout_seconds:g} seconds.", began)
    except ModelpressError as error:
        return _failed(error.detail, began)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return _failed(f"{type(error).__name__}: {error}", began)


async def _post(due: DueDelivery, target: Target, began: float) -> Answer:
    # The address that was checked is the one that is connected to; the name is only said.
    address = f"[{target.ip}]" if ":" in target.ip else target.ip
    url = f"{target.scheme}://{address}:{target.port}{target.path}"
    extensions = {"sni_hostname": target.host} if target.scheme == "https" else {}
    timeout = httpx2.Timeout(settings().webhook_timeout_seconds, connect=_CONNECT_SECONDS)
    async with (
        httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout) as client,
        client.stream(
            "POST", url, content=due.body.encode(), headers=_headers(due, target), extensions=extensions
        ) as response,
    ):
        answer = await _read(response)
        return Answer(
            status=response.status_code,
            answer=answer.decode(errors="replace"),
            error=None,
            milliseconds=_since(began),
            retry_after=_retry_after(response.headers),
        )


def _headers(due: DueDelivery, target: Target) -> dict[str, str]:
    # Always UTC: the library signs another instant for any other zone.
    now = datetime.now(UTC)
    name = f"[{target.host}]" if ":" in target.host else target.host
    return {
        "host": name if target.port == _PORTS[target.scheme] else f"{name}:{target.port}",
        "content-type": "application/json",
        "user-agent": f"Modelpress/{version('modelpress')}",
        "accept-encoding": "identity",
        "webhook-id": due.event,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(due.event, now, due.body) for secret in due.secrets),
    }


async def _read(response: httpx2.Response) -> bytes:
    kept = bytearray()
    # Raw, since a few bytes may unpack to many.
    async for chunk in response.aiter_raw():
        kept += chunk
        if len(kept) >= _ANSWER_LIMIT:
            break
    return bytes(kept[:_ANSWER_LIMIT])


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _failed(error: str, began: float) -> Answer:
    return Answer(status=None, answer="", error=error[:500], milliseconds=_since(began))


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000
