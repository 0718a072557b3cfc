"""Where webhooks may lead."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from wsp.webhooks import exchange
from wsp.webhooks.targets import Target, Undeliverable, is_public, parse_url, refuse_private, resolve


class TestParse:
    @pytest.mark.parametrize(
        ("url", "target", "authority"),
        [
            ("https://Example.com", Target("https", "example.com", 443, "/"), "example.com"),
            ("http://example.com.:80/a?b=c&d#e", Target("http", "example.com", 80, "/a?b=c&d"), "example.com"),
            ("https://a_b.internal:8443/", Target("https", "a_b.internal", 8443, "/"), "a_b.internal:8443"),
            ("http://[2606:4700::1]:8080/x", Target("http", "2606:4700::1", 8080, "/x"), "[2606:4700::1]:8080"),
            ("http://93.184.216.34", Target("http", "93.184.216.34", 80, "/"), "93.184.216.34"),
        ],
    )
    def test_takes_a_url_apart(self, url: str, target: Target, authority: str) -> None:
        assert parse_url(url) == target
        assert parse_url(url).authority == authority

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "example.com/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://",
            "https:///hook",
            "https://user@example.com/",
            "https://user:pw@example.com/",
            "https://@example.com/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:x/",
            "https://exa mple.com/",
            "https://example.com/a b",
            "https://example.com/\r\nX-Evil: 1",
            "https://bücher.example/",
            "https://[fe80::1%25eth0]/",
            "https://[::1/",
            "https://[v1.x]/",
            "https://a..b/",
            "https://evil.com\\@example.com/",
            f"https://{'a' * 64}.com/",
        ],
    )
    def test_refuses_what_is_no_url_to_call(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^must "):
            parse_url(url)


NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


class TestAddresses:
    @pytest.mark.parametrize("address", NOT_PUBLIC)
    def test_that_are_not_public_are_refused(self, address: str) -> None:
        assert not is_public(ip_address(address))

    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
    )
    def test_that_are_public_are_called(self, address: str) -> None:
        assert is_public(ip_address(address))

    @pytest.mark.parametrize("host", [f"[{a}]" if ":" in a else a for a in NOT_PUBLIC])
    def test_are_known_when_a_url_holds_them(self, host: str) -> None:
        with pytest.raises(ValueError, match="private, local or reserved"):
            refuse_private(parse_url(f"https://{host}/"))

    @pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0"])
    def test_are_known_in_every_form_that_resolvers_take(self, host: str) -> None:
        with pytest.raises(ValueError, match="private, local or reserved"):
            refuse_private(parse_url(f"https://{host}/"))

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "api.localhost"])
    def test_of_this_machine_are_known_by_name(self, host: str) -> None:
        with pytest.raises(ValueError, match="this machine"):
            refuse_private(parse_url(f"https://{host}/"))

    def test_are_left_to_the_delivery_where_there_is_a_name(self) -> None:
        refuse_private(parse_url("https://example.com/"))


class TestResolve:
    def test_refuses_a_name_that_leads_to_this_machine(self) -> None:
        with pytest.raises(Undeliverable, match="not a public address"):
            resolve(parse_url("http://localhost/"), allow_private=False)

    def test_takes_it_where_that_is_allowed(self) -> None:
        addresses = [address[0] for _, address in resolve(parse_url("http://localhost:81/"), allow_private=True)]
        assert "127.0.0.1" in addresses

    def test_says_so_when_there_is_no_such_name(self) -> None:
        with pytest.raises(Undeliverable, match="cannot be resolved"):
            resolve(parse_url("http://nothing.invalid/"), allow_private=True)

    def test_refuses_a_name_with_one_private_address_among_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [("93.184.216.34", 80), ("10.0.0.1", 80)]
        monkeypatch.setattr(socket, "getaddrinfo", _resolver([answers]))
        with pytest.raises(Undeliverable, match=r"10\.0\.0\.1"):
            resolve(parse_url("http://mixed.example/"), allow_private=False)

    def test_is_done_once_for_the_check_and_the_connection(self, monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
        # A name that leads elsewhere when it is looked up again: the connection must go to what was checked.
        first, then = [("127.0.0.1", target.port)], [("127.0.0.1", 1)]
        monkeypatch.setattr(socket, "getaddrinfo", _resolver([first, then]))
        url = parse_url(f"http://rebound.example:{target.port}/ok")
        assert exchange.post(url, b"{}", {}, allow_private=True) == (204, "")
        assert target.received[0].headers["Host"] == f"rebound.example:{target.port}"


def _resolver(answers: list[list[tuple[str, int]]]) -> Any:
    """Stands for name servers of somebody else, which no test can have."""
    left = iter(answers)

    def getaddrinfo(*_: object, **__: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in next(left)]

    return getaddrinfo
