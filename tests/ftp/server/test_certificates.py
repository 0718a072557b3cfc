"""Certificates: read again when their files change, and chosen by the host name that the client asks for."""

import ftplib
import io
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from wsp.errors import StartupError
from wsp.ftp.server.tls import Certificates
from wsp.settings import Settings

from .pairs import make_pair, name_of


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The default certificate and key of the server, for `first`."""
    pair = tmp_path / "default.pem", tmp_path / "default.key"
    make_pair(*pair, "first")
    return pair


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A folder of certificates by name."""
    folder = tmp_path / "sni"
    folder.mkdir()
    return folder


@pytest.fixture
def certificates(files: tuple[Path, Path], names: Path) -> Certificates:
    settings = Settings(
        timezone="UTC", ftp_tls_cert=files[0], ftp_tls_key=files[1], ftp_tls_sni_dir=names, data_dir=names.parent
    )
    return Certificates(settings)


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def presented(certificates: Certificates, asked: str | None = None) -> str:
    """Whose certificate a client gets that asks for a host name."""
    here, there = socket.socketpair()
    with here, there:
        server = SSL.Connection(certificates.context(), here)
        server.set_accept_state()
        thread = threading.Thread(target=server.do_handshake)
        thread.start()
        client = client_context().wrap_socket(there, server_hostname=asked)
        thread.join()
        name = name_of(client.getpeercert(binary_form=True) or b"")
        client.close()
    return name


class TestReload:
    def test_takes_a_new_pair_when_it_has_come_to_rest(
        self, certificates: Certificates, files: tuple[Path, Path]
    ) -> None:
        before = certificates.context()
        certificates.look()
        assert certificates.context() is before
        make_pair(*files, "second")
        certificates.look()
        assert presented(certificates) == "first"
        certificates.look()
        assert presented(certificates) == "second"

    def test_takes_it_at_once_when_told_to(self, certificates: Certificates, files: tuple[Path, Path]) -> None:
        make_pair(*files, "second")
        certificates.look(at_once=True)
        assert presented(certificates) == "second"

    def test_keeps_the_old_one_while_the_new_one_is_of_no_use(
        self, certificates: Certificates, files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = tmp_path / "other.pem", tmp_path / "other.key"
        make_pair(*other, "second")
        shutil.copy(other[0], files[0])
        for _ in range(5):
            certificates.look()
        (logged,) = (record.message for record in caplog.records if record.levelname == "ERROR")
        assert "holds no PEM private key" in logged
        assert "stays in use" in logged
        assert presented(certificates) == "first"
        files[1].write_bytes(other[1].read_bytes()[:40])
        certificates.look(at_once=True)
        files[1].unlink()
        certificates.look(at_once=True)
        assert presented(certificates) == "first"
        shutil.copy(other[1], files[1])
        certificates.look(at_once=True)
        assert presented(certificates) == "second"


class TestChoosingByName:
    def test_takes_the_name_then_the_wildcard_then_the_default(self, certificates: Certificates, names: Path) -> None:
        make_pair(names / "ftp.example.com.crt", names / "ftp.example.com.key", "the name")
        make_pair(names / "_.example.com.crt", names / "_.example.com.key", "the wildcard")
        certificates.look(at_once=True)
        assert presented(certificates, "ftp.example.com") == "the name"
        assert presented(certificates, "FTP.Example.COM") == "the name"
        assert presented(certificates, "other.example.com") == "the wildcard"
        for unknown in ("a.b.example.com", "example.com", "example.org", None):
            assert presented(certificates, unknown) == "first"

    def test_follows_what_is_added_changed_and_removed(self, certificates: Certificates, names: Path) -> None:
        pair = names / "example.com.crt", names / "example.com.key"
        make_pair(*pair, "added")
        certificates.look(at_once=True)
        assert presented(certificates, "example.com") == "added"
        make_pair(*pair, "changed")
        certificates.look(at_once=True)
        assert presented(certificates, "example.com") == "changed"
        pair[0].unlink()
        certificates.look(at_once=True)
        assert presented(certificates, "example.com") == "first"

    def test_a_broken_pair_hurts_nobody_else(
        self, certificates: Certificates, names: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_pair(names / "good.example.crt", names / "good.example.key", "good")
        (names / "alone.example.crt").write_text("no key beside it")
        for _ in range(4):
            certificates.look(at_once=True)
        assert presented(certificates, "good.example") == "good"
        assert presented(certificates, "alone.example") == "first"
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1

    def test_a_folder_that_goes_away_changes_nothing(
        self, certificates: Certificates, names: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_pair(names / "example.com.crt", names / "example.com.key", "named")
        certificates.look(at_once=True)
        names.rename(names.with_name("elsewhere"))
        for _ in range(3):
            certificates.look(at_once=True)
        assert presented(certificates, "example.com") == "named"
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1

    def test_a_folder_that_is_not_there_at_the_start_names_the_setting(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path, timezone="UTC", ftp_tls_sni_dir=tmp_path / "missing")
        with pytest.raises(StartupError, match="WSP_FTP_TLS_SNI_DIR: cannot read"):
            Certificates(settings)


@pytest.mark.e2e
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
class TestARunningServer:
    def name_at(self, server: Any, asked: str = "unknown.example") -> str:
        client = ftplib.FTP_TLS(context=client_context())
        client.connect("127.0.0.1", server.port, timeout=15)
        client.host = asked
        client.auth()
        assert isinstance(client.sock, ssl.SSLSocket)
        name = name_of(client.sock.getpeercert(binary_form=True) or b"")
        client.close()
        return name

    @pytest.mark.parametrize("by_signal", [False, True])
    def test_takes_new_certificates_and_drops_no_session(
        self,
        new_server: Callable[..., Any],
        files: tuple[Path, Path],
        names: Path,
        connect: Any,
        until: Any,
        by_signal: bool,
        store: str,
    ) -> None:
        server = new_server(
            WSP_FTP_TLS_CERT=str(files[0]), WSP_FTP_TLS_KEY=str(files[1]), WSP_FTP_TLS_SNI_DIR=str(names)
        ).start()
        account = server.account()
        client = connect(server, account, tls=True)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR running")
        data.sendall(b"before ")
        assert self.name_at(server) == "first"
        make_pair(*files, "second")
        make_pair(names / "ftp.example.com.crt", names / "ftp.example.com.key", "named")
        if by_signal:
            server.processes[0].send_signal(signal.SIGHUP)
        until(lambda: self.name_at(server) == "second", "the new certificate")
        until(lambda: self.name_at(server, "ftp.example.com") == "named", "the certificate of the name")
        data.sendall(b"after")
        data.unwrap()
        data.close()
        assert client.voidresp().startswith("226")
        client.storbinary("STOR another", io.BytesIO(b"x"))
        assert (account.home / "running").read_bytes() == b"before after"
