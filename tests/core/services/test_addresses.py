import socket
from collections.abc import Callable, Sequence

import pytest
from pydantic import ValidationError

from core.errors import ModelpressError
from core.services.addresses import Resolve, check_url, parse_networks
from core.settings import Settings

PRIVATE_V4 = (
    *("0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.8.8.8"),
    *("169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.31.196.1"),
    *("192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.1"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
)
PRIVATE_V6 = (
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:10::1", "2001:20::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::", "2620:4f:8000::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fec0::1", "ff02::1", "4000::1", "::ffff:0:127.0.0.1"),
)
# Other spellings of 127.0.0.1 or of the metadata address, which resolvers understand.
SPELLINGS = (
    *("https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://0177.0.0.1/"),
    *("https://0x7f.1/", "https://127.1/", "https://127.0.1/", "https://0/", "https://2852039166/"),
    *("https://0xa9fea9fe/", "https://localhost/", "https://LOCALHOST/", "https://１２７.0.0.1/", "https://①②⑦.0.0.1/"),
)
MALFORMED = (
    *("", "x", "//1.1.1.1/", "ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1/", "javascript:alert(1)"),
    *("https://", "https:///path", "https://user@1.1.1.1/", "https://user:secret@1.1.1.1/", "https://@1.1.1.1/"),
    *("https://1.1.1.1@127.0.0.1/", "https://1.1.1.1\\@127.0.0.1/", "https://1.1.1.1:0/", "https://1.1.1.1:65536/"),
    *("https://1.1.1.1:x/", "https://1.1.1.1 /", "https://1.1.1.1/\n", "https://1.1.1.1/\r\nHost: x", "https://[::1"),
    *(
        "https://[fe80::1%25eth0]/",
        "https://%31%32%37.0.0.1/",
        "https://" + "a" * 64 + ".example/",
        "https://..example/",
    ),
    *("https://example/" + "a" * 2000, "https://1.1.1.1/\x00", "https://\u2028/"),
)


def answers(*addresses: str) -> Resolve:
    def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def literal(host: str, port: int) -> Sequence[str]:
    """As the system does it, without asking the network."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(entry[4][0]) for entry in entries]


def is_refused(url: str, resolve: Resolve | None = None) -> bool:
    arguments: dict[str, Callable[..., Sequence[str]]] = {"resolve": resolve} if resolve else {}
    with pytest.raises(ModelpressError) as caught:
        check_url(url, **arguments)
    return caught.value.code == "invalid_webhook_url"


def test_there_are_enough_vectors() -> None:
    assert len({*PRIVATE_V4, *PRIVATE_V6, *SPELLINGS, *MALFORMED}) >= 90


@pytest.mark.parametrize("address", PRIVATE_V4)
def test_no_private_v4_address_is_reached_by_literal_or_by_name(address: str) -> None:
    assert is_refused(f"https://{address}/hook")
    assert is_refused("https://innocent.example/hook", answers(address))
    assert is_refused("https://innocent.example/hook", answers("1.1.1.1", address))
    assert is_refused("https://innocent.example/hook", answers(address, "1.1.1.1"))


@pytest.mark.parametrize("address", PRIVATE_V6)
def test_no_private_v6_address_is_reached_by_literal_or_by_name(address: str) -> None:
    assert is_refused(f"https://[{address}]/hook")
    assert is_refused("https://innocent.example/hook", answers("2606:4700::1111", address))


@pytest.mark.parametrize("url", SPELLINGS)
def test_no_other_spelling_helps(url: str) -> None:
    assert is_refused(url)


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    assert is_refused(url, answers("1.1.1.1"))


def test_a_name_that_is_bound_anew_is_refused_when_it_is_sent_to() -> None:
    addresses = iter((["1.1.1.1"], ["127.0.0.1"]))

    def rebinding(host: str, port: int) -> Sequence[str]:
        return next(addresses)

    assert check_url("https://rebind.example/", resolve=rebinding).ip == "1.1.1.1"
    assert is_refused("https://rebind.example/", rebinding)


def test_a_name_without_an_address_is_refused() -> None:
    def fails(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert is_refused("https://nowhere.example/", fails)
    assert is_refused("https://nowhere.example/", answers())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://1.1.1.1/a?b=c#d", ("https", "1.1.1.1", "1.1.1.1", 443, "/a?b=c")),
        ("https://1.1.1.1:8443", ("https", "1.1.1.1", "1.1.1.1", 8443, "/")),
        ("https://[2606:4700::1111]/x", ("https", "2606:4700::1111", "2606:4700::1111", 443, "/x")),
    ],
)
def test_public_addresses_are_allowed(url: str, expected: tuple[object, ...]) -> None:
    target = check_url(url, resolve=literal)
    assert (target.scheme, target.host, target.ip, target.port, target.path) == expected


def test_names_are_given_as_the_receiver_knows_them() -> None:
    assert check_url("https://Bücher.example/", resolve=answers("1.1.1.1")).host == "xn--bcher-kva.example"


def test_plain_http_is_for_allowed_networks_only() -> None:
    allow = parse_networks(["127.0.0.0/8", "10.1.2.3"])
    assert is_refused("http://1.1.1.1/", literal)
    for url in ("http://127.0.0.1:8001/hook", "https://127.0.0.1/", "http://10.1.2.3/"):
        assert check_url(url, allow, resolve=literal)
    for addresses in (("10.1.2.4",), ("127.0.0.1", "1.1.1.1"), ("::1",), ("::ffff:127.0.0.1",)):
        with pytest.raises(ModelpressError):
            check_url("http://somewhere.example/", allow, resolve=answers(*addresses))


def test_a_network_that_is_none_stops_the_process(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["10.0.0.0/40"]')
    with pytest.raises(ValidationError, match="webhook_allow"):
        Settings()
