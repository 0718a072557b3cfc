"""What must hold before a start: the folder, its lock, and the ports."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from wsp.errors import StartupError
from wsp.homes import make_files_root
from wsp.preflight import LOCK_FILE, check_ports, data_dir_held, make_data_dir
from wsp.settings import Settings, load_settings


@pytest.fixture
def loopback(free_port: Callable[[], int]) -> Settings:
    return load_settings(timezone="UTC", http_port=free_port(), ftp_port=free_port())


class TestTheDataFolder:
    def test_is_made_for_our_eyes_alone(self, tmp_path: Path) -> None:
        make_data_dir(tmp_path / "a" / "b")
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700

    def test_that_exists_is_left_as_it_is(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        make_data_dir(tmp_path)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755

    def test_cannot_be_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(StartupError, match=r"^WSP_DATA_DIR: cannot use .*/file"):
                make_data_dir(path)

    def test_the_files_root_cannot_be_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StartupError, match=r"^WSP_FILES_ROOT: cannot make .*/file"):
            make_files_root(tmp_path / "file")


class TestTheLock:
    def test_keeps_a_second_server_out(self, tmp_path: Path) -> None:
        with (
            data_dir_held(tmp_path),
            pytest.raises(StartupError, match=rf"in use by another server \(pid {os.getpid()}\)"),
            data_dir_held(tmp_path),
        ):
            pass

    def test_is_let_go(self, tmp_path: Path) -> None:
        for _ in range(2):
            with data_dir_held(tmp_path) as after_crash:
                assert not after_crash

    def test_tells_a_crash_from_an_orderly_end(self, tmp_path: Path) -> None:
        code = (
            "import os, signal; from pathlib import Path; from wsp.preflight import data_dir_held\n"
            f"with data_dir_held(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
        )
        result = subprocess.run([sys.executable, "-c", code], check=False)
        assert result.returncode == -signal.SIGKILL
        with data_dir_held(tmp_path) as after_crash:
            assert after_crash
        with data_dir_held(tmp_path) as after_crash:
            assert not after_crash

    def test_is_not_inherited_by_children(self, tmp_path: Path) -> None:
        with data_dir_held(tmp_path), subprocess.Popen(["sleep", "60"]) as child:
            held = [os.readlink(link) for link in Path(f"/proc/{child.pid}/fd").iterdir()]
            child.kill()
        assert not any(path.endswith(LOCK_FILE) for path in held)


class TestThePorts:
    def test_that_are_free(self, loopback: Settings) -> None:
        check_ports(loopback)

    @pytest.mark.parametrize("area", ["http", "ftp"])
    def test_in_use(self, area: str, loopback: Settings) -> None:
        port = getattr(loopback, f"{area}_port")
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(StartupError, match=rf"^Port {port} is in use .* WSP_{area.upper()}_PORT$"),
        ):
            check_ports(loopback)

    def test_in_use_for_implicit_tls(self, loopback: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            settings = loopback.model_copy(update={"ftp_implicit_tls_port": port})
            with pytest.raises(StartupError, match=rf"^Port {port} is in use .* WSP_FTP_IMPLICIT_TLS_PORT$"):
                check_ports(settings)

    def test_held_by_what_a_crash_left_get_a_moment(self, loopback: Settings) -> None:
        holder = socket.create_server(("127.0.0.1", loopback.ftp_port))
        timer = threading.Timer(0.3, holder.close)
        timer.start()
        check_ports(loopback, after_crash=True)
        timer.join()

    def test_held_for_good_are_refused_after_a_crash_too(
        self, loopback: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsp.preflight.CRASH_WAIT_SECONDS", 0.2)
        with (
            socket.create_server(("127.0.0.1", loopback.ftp_port)),
            pytest.raises(StartupError, match="is in use"),
        ):
            check_ports(loopback, after_crash=True)

    def test_whose_last_connection_lingers_are_free(self, loopback: Settings) -> None:
        with socket.create_server(("127.0.0.1", loopback.http_port)) as server:
            client = socket.create_connection(("127.0.0.1", loopback.http_port))
            accepted, _ = server.accept()
            accepted.close()  # the server's side closes first, and is left in TIME_WAIT
            client.recv(1)
            client.close()
        check_ports(loopback)

    def test_have_to_be_different(self, loopback: Settings) -> None:
        same = loopback.model_copy(update={"ftp_implicit_tls_port": loopback.http_port})
        with pytest.raises(StartupError, match=r"^WSP_HTTP_PORT and WSP_FTP_IMPLICIT_TLS_PORT"):
            check_ports(same)

    def test_have_to_be_two(self) -> None:
        with pytest.raises(StartupError, match=r"^WSP_HTTP_PORT and WSP_FTP_PORT"):
            check_ports(load_settings(timezone="UTC", http_port=4000, ftp_port=4000))

    @pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "999.1.1.1"])
    def test_of_an_address_that_is_not_ours(self, host: str, free_port: Callable[[], int]) -> None:
        settings = load_settings(timezone="UTC", ftp_host=host, http_port=free_port(), ftp_port=free_port())
        with pytest.raises(StartupError, match=r"^WSP_FTP_HOST: "):
            check_ports(settings)

    def test_of_ipv6(self, free_port: Callable[[], int]) -> None:
        settings = load_settings(
            timezone="UTC", http_host="::1", ftp_host="::", http_port=free_port(), ftp_port=free_port()
        )
        check_ports(settings)
