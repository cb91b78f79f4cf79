"""Which addresses a webhook may reach: the guard against requests to the inside of somebody's network.

The same check runs when an endpoint is saved and at each send; the sender connects to the address that was checked.
`ipaddress.is_global` is not used: it calls NAT64 and 6to4 forms of 127.0.0.1 global.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from core.errors import ModelpressError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

MAX_URL_LENGTH = 2000
_PORTS = {"http": 80, "https": 443}

# IANA's registry of special-purpose addresses, with multicast and reserved space.
_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_OPEN_V6 = IPv6Network("2000::/3")
# Teredo and its neighbours, documentation, 6to4, AS112, documentation again.
_CLOSED_V6 = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect (`ip`, `port`), what to ask for (`path` with query), and the name to give (`host`)."""

    scheme: str
    host: str
    ip: str
    port: int
    path: str


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Every address of a name, by the system's resolver; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_url(url: str, allow: Sequence[Network] = (), *, resolve: Resolve = resolve_host) -> Target:
    """The target of a webhook; raises `invalid_webhook_url` unless every address of its host may be reached.

    Public addresses may be reached by https; those in `allow` by http too.
    """
    parts, host, port = _parse(url)
    try:
        addresses = [ip_address(text) for text in resolve(host, port)]
    except (OSError, UnicodeError, ValueError) as error:
        raise _refuse(f"The host {host!r} cannot be resolved.") from error
    if not addresses:
        raise _refuse(f"The host {host!r} has no address.")
    allowed = [any(address in network for network in allow) for address in addresses]
    if not all(known or is_public(address) for known, address in zip(allowed, addresses, strict=True)):
        raise _refuse(f"The host {host!r} is not on the public internet.", hint=_HOW_TO_ALLOW)
    if parts.scheme != "https" and not all(allowed):
        raise _refuse("Webhooks outside the allowed networks must use https.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, ip=str(addresses[0]), port=port, path=path)


def is_public(address: Address) -> bool:
    """Whether the address is on the public internet: outside every special-purpose network."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    return address.scope_id is None and address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The operator's networks; raises ValueError for what is none."""
    return tuple(ip_network(text, strict=False) for text in texts)


_HOW_TO_ALLOW = "Use a public https address; the operator can allow a network with MODELPRESS_WEBHOOK_ALLOW."


def _parse(url: str) -> tuple[SplitResult, str, int]:
    if len(url) > MAX_URL_LENGTH or not url.isprintable() or any(sign in url for sign in " \\"):
        raise _refuse("The address holds signs that no address may hold, or is too long.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
    except ValueError as error:
        raise _refuse("This is not a web address.") from error
    if parts.scheme not in _PORTS or not host or port == 0:
        raise _refuse("The address must begin with https:// and name a host.")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise _refuse("The address must not carry a user name, a password or an escaped host.")
    return parts, host, port or _PORTS[parts.scheme]


def _refuse(detail: str, *, hint: str | None = None) -> ModelpressError:
    return ModelpressError("invalid_webhook_url", detail, hint=hint, pointer="/url")
