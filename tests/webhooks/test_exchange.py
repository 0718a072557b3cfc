"""One request to a target, whatever the target does."""

import datetime
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wsp.webhooks import exchange
from wsp.webhooks.targets import Undeliverable, parse_url

Certificate = tuple[str, str]


def post(url: str, body: bytes = b"{}") -> tuple[int, str]:
    return exchange.post(parse_url(url), body, {"X-Test": "1"}, allow_private=True)


class TestPost:
    def test_sends_the_body_to_the_path(self, target: Any) -> None:
        body = "ü" * 1_000_000
        assert post(target.url("/ok?a=b"), body.encode()) == (204, "")
        (request,) = target.received
        assert (request.path, request.body) == ("/ok?a=b", body.encode())
        assert request.headers["X-Test"] == "1"
        assert request.headers["Host"] == f"127.0.0.1:{target.port}"

    def test_gives_the_beginning_of_a_bad_answer(self, target: Any) -> None:
        status, excerpt = post(target.url("/500"))
        assert status == 500
        assert excerpt.startswith("it is <b>broken</b> xxx")
        assert len(excerpt) <= exchange.EXCERPT_CHARACTERS

    def test_follows_no_redirect(self, target: Any) -> None:
        assert post(target.url("/302"))[0] == 302
        assert len(target.received) == 1

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            ("/close", "not HTTP|connection failed"),
            ("/garbage", "not HTTP"),
        ],
    )
    def test_says_what_is_wrong(self, target: Any, path: str, sentence: str) -> None:
        with pytest.raises(Undeliverable, match=sentence):
            post(target.url(path))

    @pytest.mark.parametrize("path", ["/hang", "/drip"])
    def test_waits_no_longer_than_it_may(self, target: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "WHOLE_SECONDS", 0.5)
        started = time.monotonic()
        with pytest.raises(Undeliverable, match=r"no answer within 0\.5 seconds"):
            post(target.url(path))
        assert time.monotonic() - started < 20  # the target would go on for longer

    def test_says_when_nobody_listens(self, free_port: Callable[[], int]) -> None:
        with pytest.raises(Undeliverable, match="refused"):
            post(f"http://127.0.0.1:{free_port()}/")

    def test_gives_up_on_an_address_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "CONNECT_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
            waiting.connect(full.getsockname())  # takes the only place in the queue
            with pytest.raises(Undeliverable, match=r"no (connection|answer) within"):
                post(f"http://127.0.0.1:{full.getsockname()[1]}/", b"")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A self-signed certificate for `localhost`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "crt.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(tmp_path / "crt.pem"), str(tmp_path / "key.pem")


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a certificate one that this process trusts, as an operator would."""

    def trusted(path: str) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        exchange._tls.cache_clear()

    yield trusted
    exchange._tls.cache_clear()


class TestTls:
    def test_names_the_host_and_checks_the_certificate(
        self, start_target: Any, certificate: Certificate, trust: Callable[[str], None]
    ) -> None:
        target = start_target(certificate)
        trust(certificate[0])
        assert post(target.url("/ok", "localhost")) == (204, "")
        assert target.server_names == ["localhost"]

    def test_refuses_a_certificate_that_nobody_vouches_for(self, start_target: Any, certificate: Certificate) -> None:
        target = start_target(certificate)
        with pytest.raises(Undeliverable, match="certificate is not valid"):
            post(target.url("/ok", "localhost"))
        assert target.received == []

    def test_refuses_the_certificate_of_another_name(
        self, start_target: Any, certificate: Certificate, trust: Callable[[str], None]
    ) -> None:
        target = start_target(certificate)
        trust(certificate[0])
        with pytest.raises(Undeliverable, match="certificate is not valid"):
            post(target.url("/ok", "127.0.0.1"))

    def test_says_when_the_target_speaks_no_tls(self, target: Any) -> None:
        with pytest.raises(Undeliverable, match=r"TLS failed|connection failed"):
            post(f"https://127.0.0.1:{target.port}/ok")
