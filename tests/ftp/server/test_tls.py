"""TLS: the certificate that the server makes, the ones it is given, and what a client may not do."""

import ftplib
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from wsp.errors import StartupError
from wsp.ftp.server.self_signed import LIFETIME
from wsp.ftp.server.tls import Certificates
from wsp.settings import Settings

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


def certificate_of(settings: Settings) -> x509.Certificate:
    return x509.load_pem_x509_certificate((settings.data_dir / "tls" / "ftp.crt").read_bytes())


@pytest.fixture
def plain_settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", timezone="UTC", ftp_host="127.0.0.9")


class TestSelfSigned:
    def test_made_once_with_a_private_key_for_the_server_alone(self, plain_settings: Settings) -> None:
        Certificates(plain_settings)
        first = certificate_of(plain_settings)
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "localhost" in names.get_values_for_type(x509.DNSName)
        assert "127.0.0.9" in [str(name) for name in names.get_values_for_type(x509.IPAddress)]
        assert (plain_settings.data_dir / "tls" / "ftp.key").stat().st_mode & 0o777 == 0o600
        Certificates(plain_settings)
        assert certificate_of(plain_settings) == first

    def test_made_again_when_expired_or_damaged(
        self, plain_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as past:
            past.setattr("wsp.ftp.server.self_signed.utc_now", lambda: LONG_AGO)
            Certificates(plain_settings)
        assert certificate_of(plain_settings).not_valid_after_utc == LONG_AGO + LIFETIME
        Certificates(plain_settings)
        renewed = certificate_of(plain_settings)
        assert renewed.not_valid_after_utc > datetime.now(UTC) + LIFETIME - timedelta(days=1)
        (plain_settings.data_dir / "tls" / "ftp.key").write_text("half a k")
        Certificates(plain_settings)
        assert certificate_of(plain_settings) != renewed

    def test_workers_that_start_at_once_agree(self, plain_settings: Settings) -> None:
        threads = [threading.Thread(target=Certificates, args=(plain_settings,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Certificates(plain_settings)
        assert sorted(os.listdir(plain_settings.data_dir / "tls")) == ["ftp.crt", "ftp.key", "lock"]


class TestGivenCertificate:
    def test_a_bad_file_names_the_setting(self, plain_settings: Settings, tmp_path: Path) -> None:
        Certificates(plain_settings)
        good = plain_settings.data_dir / "tls"
        other = Settings(data_dir=tmp_path / "other", timezone="UTC")
        Certificates(other)
        garbage = tmp_path / "garbage"
        garbage.write_text("nothing")
        cases = [
            (tmp_path / "missing", good / "ftp.key", "WSP_FTP_TLS_CERT: cannot read"),
            (garbage, good / "ftp.key", "WSP_FTP_TLS_CERT"),
            (good / "ftp.crt", garbage, "WSP_FTP_TLS_KEY"),
            (good / "ftp.crt", other.data_dir / "tls" / "ftp.key", "WSP_FTP_TLS_KEY"),
        ]
        for certificate, key, words in cases:
            settings = Settings(data_dir=tmp_path / "third", timezone="UTC", ftp_tls_cert=certificate, ftp_tls_key=key)
            with pytest.raises(StartupError, match=words):
                Certificates(settings)


@pytest.mark.e2e
class TestAuth:
    def test_what_came_behind_auth_in_clear_text_is_not_executed(self, server: Any, raw: Any) -> None:
        client = raw(server)
        client.send(b"AUTH TLS\r\nSTAT\r\n")
        assert client.reply().startswith("234")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(client.socket) as secured:
            secured.sendall(b"NOOP\r\n")
            assert secured.recv(100).startswith(b"200")

    def test_old_versions_are_refused(self, server: Any, raw: Any) -> None:
        client = raw(server)
        client.ask("AUTH TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python would rather not, either
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(client.socket)

    def test_an_upload_that_was_cut_is_not_published(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account, tls=True)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR cut")
        data.sendall(b"half of it")
        # A bare FIN, without TLS's farewell: anybody on the way could have sent it.
        with socket.socket(fileno=os.dup(data.fileno())) as below:
            below.shutdown(socket.SHUT_WR)
        with pytest.raises(ftplib.error_temp, match="426"):
            client.voidresp()
        data.close()
        assert not (account.home / "cut").exists()

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_an_upload_by_a_client_that_never_reads_arrives_whole(
        self, server: Any, connect: Any, version: ssl.TLSVersion
    ) -> None:
        # As Go's TLS does: closing a socket with tickets unread in it resets the connection, and what is on its way.
        account = server.account()
        client = connect(server, account, tls=True)
        client.voidcmd("TYPE I")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        host, port = client.makepasv()
        with socket.create_connection((host, port)) as data:
            assert client.sendcmd("STOR whole").startswith(("125", "150"))
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    data.sendall(outgoing.read())
                    incoming.write(data.recv(65536))
            for _ in range(320):
                tls.write(b"x" * 65536)
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            data.sendall(outgoing.read())
        assert client.voidresp().startswith("226")
        assert (account.home / "whole").stat().st_size == 320 * 65536

    def test_a_clear_data_channel_stays_possible(
        self, server: Any, connect: Any, put: Callable[..., str], fetch: Callable[..., bytes]
    ) -> None:
        client = connect(server, server.account(), tls=True)
        client.prot_c()
        put(client, "f", b"clear")
        client.prot_p()
        assert fetch(client, "f") == b"clear"
