"""FTPS by policy: implicit TLS, what must be protected, resumption, and what counts as a whole upload."""

import ftplib
import io
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

from .pairs import make_pair, name_of

pytestmark = pytest.mark.e2e

NAME = "ftp.example.com"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class ImplicitClient(ftplib.FTP_TLS):
    """Speaks TLS from the first byte, and sends neither PBSZ nor PROT: data connections are protected all the same."""

    def connect(self, host: str = "", port: int = 0, timeout: float = 15, source_address: Any = None) -> str:
        self.sock = self.context.wrap_socket(socket.create_connection((host, port), timeout))
        self.host, self.af, self.timeout = host, self.sock.family, timeout
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        self._prot_p = True
        return self.welcome

    def login(self, *arguments: Any, **_: Any) -> str:
        return ftplib.FTP.login(self, *arguments)


class ResumingClient(ftplib.FTP_TLS):
    """Resumes the TLS session of its control connection, or of `other`, on its data connections."""

    other: ftplib.FTP_TLS | None = None

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        session = (self.other or self).sock.session  # type: ignore[union-attr]
        return self.context.wrap_socket(data, server_hostname=self.host, session=session), size


@pytest.fixture(scope="module")
def strict(
    new_shared_server: Callable[..., Any], free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A server that asks for all that can be asked for."""
    names = tmp_path_factory.mktemp("names")
    make_pair(names / f"{NAME}.crt", names / f"{NAME}.key", NAME)
    return new_shared_server(
        WSP_FTP_TLS_SNI_DIR=str(names),
        WSP_FTP_REQUIRE_TLS="true",
        WSP_FTP_REQUIRE_TLS_RESUMPTION="true",
        WSP_FTP_IMPLICIT_TLS_PORT=str(free_port()),
    ).start()


@pytest.fixture(scope="module")
def lenient(new_shared_server: Callable[..., Any]) -> Any:
    """A server that takes uploads without TLS's farewell."""
    return new_shared_server(WSP_FTP_STRICT_TLS="false").start()


@pytest.fixture
def secure() -> Any:
    """Logs a client of some kind in over TLS."""
    with ExitStack() as stack:

        def opened(
            kind: type[ftplib.FTP_TLS],
            server: Any,
            account: Any,
            version: ssl.TLSVersion | None = None,
            port: int | None = None,
            name: str | None = None,
        ) -> ftplib.FTP_TLS:
            client = kind(context=client_context(version))
            stack.callback(client.close)
            client.connect("127.0.0.1", port or server.port, timeout=15)
            client.host = name or client.host  # what it asks for with SNI
            client.login(account.username, account.password)
            if kind is not ImplicitClient:
                client.prot_p()
            return client

        yield opened


def implicit_port(server: Any) -> int:
    return int(server.environment["WSP_FTP_IMPLICIT_TLS_PORT"])


class TestLoginInClearText:
    @pytest.mark.parametrize("name", ["admin_deploy", "anonymous"])
    def test_is_refused_before_the_password(self, strict: Any, raw: Any, name: str) -> None:
        client = raw(strict)
        port = implicit_port(strict)
        assert client.ask(f"USER {name}") == (
            f"530 No login in clear text here: use explicit FTPS (AUTH TLS), or implicit FTPS on port {port}.\r\n"
        )
        assert client.ask("PASS x").startswith("503")

    @pytest.mark.parametrize("mode", ["TLS", "SSL"])
    def test_what_came_behind_auth_does_not_get_around_it(self, strict: Any, raw: Any, mode: str) -> None:
        client = raw(strict)
        client.send(f"AUTH {mode}\r\nUSER somebody\r\nPASS x\r\n".encode())
        assert client.reply().startswith("234")
        with client_context().wrap_socket(client.socket) as secured:
            secured.sendall(b"NOOP\r\n")
            assert secured.recv(100).startswith(b"200")


class TestDataInClearText:
    def test_is_refused_where_the_server_requires_tls(self, strict: Any, connect: Any) -> None:
        client = connect(strict, strict.account(), tls=True)
        with pytest.raises(ftplib.error_perm, match="534 Data connections have to be protected"):
            client.prot_c()

    @pytest.mark.parametrize("command", ["STOR f", "RETR f", "APPE f", "LIST", "MLSD", "NLST", "STOU"])
    def test_is_refused_where_the_account_requires_it(self, server: Any, command: str) -> None:
        account = server.account(require_tls=True)
        client = ftplib.FTP_TLS(context=client_context())
        client.connect("127.0.0.1", server.port, timeout=15)
        client.login(account.username, account.password)
        (account.home / "f").write_text("secret")
        with pytest.raises(ftplib.error_perm, match="521 The data connection has to be protected"):
            client.transfercmd(command)
        client.close()

    def test_is_refused_on_a_connection_that_was_made_before_prot_p(self, server: Any, until: Any) -> None:
        account = server.account(require_tls=True)
        client = ftplib.FTP_TLS(context=client_context())
        client.connect("127.0.0.1", server.port, timeout=15)
        client.login(account.username, account.password)
        host, port = client.makepasv()
        with socket.create_connection((host, port), timeout=15):
            # The reply tells that the connection was accepted, in clear text, before PROT P.
            until(lambda: "Data connection" in client.sendcmd("STAT"), "the data connection")
            client.prot_p()
            with pytest.raises(ftplib.error_perm, match="521 The data connection has to be protected"):
                client.sendcmd("STOR f")
        client.close()
        assert not (account.home / "f").exists()


class TestImplicitTls:
    def test_is_spoken_from_the_first_byte_and_protects_data(self, new_server: Any, free_port: Any) -> None:
        server = new_server(WSP_FTP_IMPLICIT_TLS_PORT=str(free_port())).start()
        account = server.account()
        client = ImplicitClient(context=client_context())
        assert client.connect("127.0.0.1", implicit_port(server)).startswith("220")
        client.login(account.username, account.password)
        client.storbinary("STOR f", io.BytesIO(b"x" * 100_000))
        parts: list[bytes] = []
        client.retrbinary("RETR f", parts.append)
        assert b"".join(parts) == b"x" * 100_000
        with pytest.raises(ftplib.error_perm, match="503"):
            client.voidcmd("AUTH TLS")
        client.voidcmd("REIN")
        client.login(account.username, account.password)
        assert client.nlst() == ["f"]
        client.close()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_prot_c_is_taken_where_nothing_requires_tls(
        self, new_server: Any, free_port: Any, secure: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_IMPLICIT_TLS_PORT=str(free_port())).start()
        client = secure(ImplicitClient, server, server.account(), port=implicit_port(server))
        client.prot_c()
        client.storbinary("STOR f", io.BytesIO(b"clear"))

    def test_clear_text_gets_no_answer(self, strict: Any) -> None:
        with socket.create_connection(("127.0.0.1", implicit_port(strict)), timeout=15) as client:
            client.sendall(b"USER somebody\r\n")
            with suppress(ConnectionResetError):
                assert not client.recv(100).startswith((b"2", b"3", b"5"))

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_who_is_turned_away_there_reads_no_clear_text(
        self, new_server: Any, free_port: Any, raw: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_IMPLICIT_TLS_PORT=str(free_port()), WSP_FTP_MAX_SESSIONS="1").start()
        raw(server)
        assert raw(server).greeting.startswith("421 Too many sessions")
        with socket.create_connection(("127.0.0.1", implicit_port(server)), timeout=15) as client:
            assert client.recv(100) == b""

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_all_workers_share_the_port(self, new_server: Any, free_port: Any, until: Any, store: str) -> None:
        server = new_server(WSP_FTP_IMPLICIT_TLS_PORT=str(free_port())).start().start()
        account = server.account()

        def both_served() -> bool:
            client = ImplicitClient(context=client_context())
            client.connect("127.0.0.1", implicit_port(server))
            client.login(account.username, account.password)
            client.close()
            return all("login: user" in path.read_text() for path in server.folder.glob("ftp-*.log"))

        until(both_served, seconds=60)

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_port_in_use_is_one_line_that_names_the_setting(self, new_server: Any, store: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = new_server(WSP_FTP_IMPLICIT_TLS_PORT=str(port))
            assert server.spawn().wait(20) == 1
        assert server.log.strip() == f"the FTP port {port} on 127.0.0.1 is in use (WSP_FTP_IMPLICIT_TLS_PORT)"


class TestHandshake:
    @pytest.mark.parametrize("command", ["RETR f", "STOR f", "NLST"])
    def test_that_does_not_come_costs_nothing(self, server: Any, secure: Any, put: Any, command: str) -> None:
        client = secure(ftplib.FTP_TLS, server, server.account())
        put(client, "f", b"x")
        with socket.create_connection(client.makepasv(), timeout=15):
            assert client.sendcmd(command).startswith(("125", "150"))
            process = psutil.Process(server.processes[0].pid)
            before = sum(process.cpu_times()[:2])
            threading.Event().wait(1.0)  # nothing to wait for: this is the time that is measured
            assert sum(process.cpu_times()[:2]) - before < 0.3


class TestResumption:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("required", [True, False])
    def test_of_the_control_connection_is_what_the_server_does(
        self, strict: Any, server: Any, secure: Any, version: ssl.TLSVersion, required: bool
    ) -> None:
        it = strict if required else server
        client = secure(ResumingClient, it, it.account(), version)
        self.use(client)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_works_with_a_certificate_that_was_chosen_by_name(
        self, strict: Any, secure: Any, version: ssl.TLSVersion
    ) -> None:
        account = strict.account()
        client = secure(ResumingClient, strict, account, version, name=NAME)
        assert name_of(client.sock.getpeercert(binary_form=True)) == NAME
        self.use(client)
        thief = secure(ResumingClient, strict, account, version, name=NAME)
        thief.context, thief.other = client.context, client
        with pytest.raises(ftplib.error_perm, match="522 The data connection has to resume"):
            thief.storbinary("STOR f", io.BytesIO(b"x"))

    @staticmethod
    def use(client: ftplib.FTP_TLS) -> None:
        client.voidcmd("TYPE I")
        for _ in range(3):
            with client.transfercmd("STOR f") as data:
                data.sendall(b"x" * 100_000)
                assert isinstance(data, ssl.SSLSocket)
                assert data.session_reused
                data.unwrap()
            client.voidresp()
        parts: list[bytes] = []
        client.retrbinary("RETR f", parts.append)
        assert b"".join(parts) == b"x" * 100_000
        assert client.nlst() == ["f"]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_of_nothing_is_refused_where_it_is_required(
        self, strict: Any, secure: Any, version: ssl.TLSVersion
    ) -> None:
        account = strict.account()
        client = secure(ftplib.FTP_TLS, strict, account, version)
        (account.home / "f").write_text("secret")
        with pytest.raises(ftplib.error_perm, match="522 The data connection has to resume"):
            client.storbinary("STOR new", io.BytesIO(b"x" * 100_000))
        parts: list[bytes] = []
        with pytest.raises(ftplib.error_perm, match="522 The data connection has to resume"):
            client.retrbinary("RETR f", parts.append)
        assert not parts
        assert os.listdir(account.home) == ["f"]
        client.voidcmd("NOOP")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_of_somebody_elses_session_is_refused(self, strict: Any, secure: Any, version: ssl.TLSVersion) -> None:
        account = strict.account()
        victim = secure(ResumingClient, strict, account, version)
        thief = secure(ResumingClient, strict, strict.account(), version)
        thief.context = victim.context  # Python resumes a session within its own context only
        thief.other = victim
        with pytest.raises(ftplib.error_perm, match="522 The data connection has to resume"):
            thief.storbinary("STOR f", io.BytesIO(b"x"))
        victim.storbinary("STOR f", io.BytesIO(b"x"))

    def test_is_asked_of_clients_that_shake_hands_before_the_command_too(
        self, strict: Any, secure: Any, until: Any
    ) -> None:
        client = secure(ftplib.FTP_TLS, strict, strict.account())
        client.voidcmd("TYPE I")
        address = client.makepasv()
        with client_context().wrap_socket(socket.create_connection(address, timeout=15)) as data:
            data.recv(1)  # the server ends the connection
            with pytest.raises(ftplib.error_perm, match="522 The data connection has to resume"):
                client.sendcmd("STOR f")
        address = client.makepasv()
        client.voidcmd("ABOR")
        with pytest.raises(ftplib.error_temp, match="425"):
            client.sendcmd("STOR f")


class TestAnUploadWithoutFarewell:
    @staticmethod
    def upload(client: ftplib.FTP_TLS, *, reset: bool) -> str:
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"x" * 200_000)
        with socket.socket(fileno=os.dup(data.fileno())) as below:
            if reset:
                below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                data.close()
            else:
                below.shutdown(socket.SHUT_WR)
        try:
            return client.voidresp()
        finally:
            data.close()

    def test_is_published_where_that_is_not_required(self, lenient: Any, secure: Any) -> None:
        account = lenient.account()
        client = secure(ftplib.FTP_TLS, lenient, account)
        assert self.upload(client, reset=False).startswith("226")
        assert (account.home / "f").stat().st_size == 200_000

    def test_is_refused_all_the_same_when_the_connection_was_reset(self, lenient: Any, secure: Any) -> None:
        account = lenient.account()
        client = secure(ftplib.FTP_TLS, lenient, account)
        with pytest.raises(ftplib.error_temp, match="426 The data connection broke off"):
            self.upload(client, reset=True)
        assert not (account.home / "f").exists()

    def test_is_refused_where_it_is(self, server: Any, secure: Any) -> None:
        account = server.account()
        client = secure(ftplib.FTP_TLS, server, account)
        with pytest.raises(ftplib.error_temp, match="426 The data connection broke off"):
            self.upload(client, reset=False)
        assert not (account.home / "f").exists()


class TestDataConnection:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_one_that_carries_nothing_ends_well_every_time(
        self, server: Any, secure: Any, version: ssl.TLSVersion
    ) -> None:
        client = secure(ftplib.FTP_TLS, server, server.account(), version)
        for _ in range(60):
            assert client.nlst() == []
            assert client.storbinary("STOR empty", io.BytesIO()).startswith("226")
            assert client.retrbinary("RETR empty", bytes).startswith("226")
            client.delete("empty")

    @pytest.mark.parametrize(
        ("command", "reply"),
        [
            ("STOR g", "426 The data connection broke off, the upload was not stored."),
            ("RETR f", "426 The data connection broke off."),
            ("NLST", "426 The data connection broke off."),
        ],
    )
    def test_one_that_ends_before_the_handshake_is_told_what_it_was(
        self, server: Any, secure: Any, command: str, reply: str
    ) -> None:
        account = server.account()
        client = secure(ftplib.FTP_TLS, server, account)
        client.storbinary("STOR f", io.BytesIO(b"x"))
        with socket.create_connection(client.makepasv(), timeout=15):
            assert client.sendcmd(command).startswith("1")
        with pytest.raises(ftplib.error_temp) as broken:
            client.voidresp()
        assert str(broken.value) == reply
        assert client.nlst() == ["f"]
