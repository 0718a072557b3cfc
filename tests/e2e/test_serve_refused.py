"""`wsp serve`: what stops it from starting."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Server = Any  # the class of tests/e2e/conftest.py, which tests cannot import
StartServer = Callable[..., Server]


def assert_refused(server: Server, *words: str) -> None:
    """It ended by itself with 1 and said so in one line."""
    assert server.process.wait(timeout=90) == 1
    said = [line for line in server.log().splitlines() if line.startswith("wsp: ")]
    assert len(said) == 1, server.log()
    for word in words:
        assert word in said[0]
    assert "Traceback" not in server.log()
    assert "is running" not in server.out.read_text()


class TestWhatStopsAStart:
    @pytest.mark.parametrize("area", ["HTTP", "FTP"])
    def test_a_port_in_use(self, area: str, launch_server: StartServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            server = launch_server(**{f"WSP_{area}_PORT": str(port)})
            assert_refused(server, str(port), f"WSP_{area}_PORT")
        assert "started" not in server.log()

    def test_a_port_that_another_shares(self, launch_server: StartServer) -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert_refused(launch_server(WSP_FTP_PORT=str(port)), str(port), "WSP_FTP_PORT")

    def test_one_port_for_both(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_HTTP_PORT="4000", WSP_FTP_PORT="4000"), "WSP_HTTP_PORT", "WSP_FTP_PORT")

    def test_a_second_server_on_the_folder(
        self, start_server: StartServer, launch_server: StartServer, free_port: Callable[[], int]
    ) -> None:
        first = start_server()
        second = launch_server(WSP_HTTP_PORT=str(free_port()), WSP_FTP_PORT=str(free_port()))
        assert_refused(second, str(first.data_dir), str(first.process.pid), "WSP_DATA_DIR")
        assert first.answers()

    def test_a_wrong_setting(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_FTP_PASSIVE_PORTS="many"), "WSP_FTP_PASSIVE_PORTS", "50000-50999")

    def test_an_address_of_another_machine(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_HTTP_HOST="192.0.2.1"), "WSP_HTTP_HOST", "192.0.2.1")

    def test_what_a_service_finds_wrong(self, launch_server: StartServer, tmp_path: Path) -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("no certificate")
        server = launch_server(WSP_FTP_TLS_CERT=str(broken), WSP_FTP_TLS_KEY=str(broken))
        assert_refused(server, "WSP_FTP_TLS_")
        assert "starting it again" not in server.log()

    def test_a_data_folder_that_is_a_file(self, launch_server: StartServer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert_refused(launch_server(WSP_DATA_DIR=str(tmp_path / "file")), "WSP_DATA_DIR", str(tmp_path / "file"))
