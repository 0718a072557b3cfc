"""FTP through wsp against vsftpd, pure-ftpd and proftpd from Debian, on the loopback, as ratios of one run.

    python benchmarks/ftp.py                                everything (a quarter of an hour)
    python benchmarks/ftp.py --only streams --size 128 --rounds 3

wsp runs as it does by default, with a quota and an xferlog on top. The servers take turns within each round, so that
what else the machine does hits all of them; a ratio is the median over the rounds of wsp's rate divided by the best
peer's. Streams are timed from the command to the last reply, by curl: the login is not in them. Files lie in memory
where there is /dev/shm. Needs root, curl, lftp, openssl, and what `peers.py` says.
"""

import argparse
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from peers import STARTERS, Server, free_port, make_certificate, unpack, wait_for

from wsp import schema
from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp.models import FtpAccount
from wsp.passwords import hash_password
from wsp.settings import load_settings

USER = "bench_ftp"
PASSWORD = "benchmark"
QUOTA_MB = 2**20
MEBIBYTE = 2**20
CLIENT_SECONDS = 300
FILE_BYTES = 4096
CONNECTIONS = 4
STREAMS = 16
LOGINS = 2000
GROUPS = ("streams", "tls", "many-streams", "small", "logins", "accounts")
TLS = ("--ssl-reqd", "-k")

OURS = """
import sys
from pathlib import Path
from wsp.ftp.server.run import run
from wsp.logs import configure_logging
from wsp.settings import load_settings
settings = load_settings(
    data_dir=Path(sys.argv[2]), ftp_port=int(sys.argv[1]), ftp_passive_ports="20000-29999",
    ftp_xferlog=Path(sys.argv[2]) / "xferlog", log_level="warning",
)
configure_logging(settings)
run(settings)
"""

Work = Callable[[Server], float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="MiB of the one stream")
    parser.add_argument("--files", type=int, default=1000, help="files of 4 KiB that lftp mirrors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this alone; can be repeated")
    parser.add_argument("--folder", type=Path, help="where the files lie; in memory, if there is /dev/shm, by default")
    options = parser.parse_args()
    for program in ("curl", "lftp", "openssl", "apt-get", "dpkg"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is needed")
    if os.geteuid():
        sys.exit("root is needed: the peers start as root")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    wanted = options.only or GROUPS
    memory = Path("/dev/shm")  # a disk would be measured along with the servers
    where = options.folder or (memory if os.access(memory, os.W_OK) else None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsp-bench-", dir=where)))
        folder.chmod(0o755)
        print(f"{os.cpu_count()} cores, {options.size} MiB, {options.files} files, {options.rounds} rounds", flush=True)
        bench = Bench(folder, options, stack)
        for group in GROUPS:
            if group in wanted:
                getattr(bench, group.replace("-", "_"))()


class Bench:
    """The servers of one run, and what is measured of them."""

    def __init__(self, folder: Path, options: argparse.Namespace, stack: ExitStack) -> None:
        self.folder, self.options, self.stack = folder, options, stack
        self.source = folder / "source"
        _make_source(self.source, options.size, options.files)
        certificate = make_certificate(folder)
        roots = unpack(folder / "packages")
        data = _prepare(folder / "ours")
        self.ours = stack.enter_context(_ours(data, certificate))
        self.peers = [
            stack.enter_context(start(roots[name], folder / name, certificate, user=USER, password=PASSWORD))
            for name, start in STARTERS.items()
        ]
        self.data, self.certificate = data, certificate

    def streams(self) -> None:
        """One stream in clear text."""
        stream = self.source / "stream"
        self.compare("download", self.options.size, lambda s: _download(s), 1.2, before=lambda s: _upload(s, stream))
        self.compare("upload", self.options.size, lambda s: _upload(s, stream, "new"), 1.0, after=_remove_new)

    def tls(self) -> None:
        """One stream over TLS."""
        stream = self.source / "stream"
        self.compare(
            "TLS download", self.options.size, lambda s: _download(s, *TLS), 1.0, before=lambda s: _upload(s, stream)
        )
        self.compare("TLS upload", self.options.size, lambda s: _upload(s, stream, "new", *TLS), 1.0, after=_remove_new)

    def many_streams(self) -> None:
        """16 streams at once; two processes of ours."""
        size = max(self.options.size // STREAMS, 1)
        part = self.source / "part"
        with part.open("wb") as file:
            file.write(os.urandom(MEBIBYTE) * size)
        with _ours(self.data, self.certificate, port=self.ours.port) as second:
            self.ours.others = [second.pid]
            total = size * STREAMS
            self.compare(
                f"{STREAMS} downloads",
                total,
                lambda s: _at_once(s, part, up=False),
                1.0,
                before=lambda s: _upload(s, part, "part"),
            )
            self.compare(f"{STREAMS} uploads", total, lambda s: _at_once(s, part, up=True), 1.0)
            self.ours.others = []

    def small(self) -> None:
        """Many small files over four connections."""
        many, files = self.source / "many", self.options.files
        back = self.folder / "back"
        self.compare("small uploads", files, lambda s: _mirror(s, many), 1.0, against="vsftpd")
        self.compare(
            "small downloads",
            files,
            lambda s: _mirror_back(s, back),
            1.0,
            against="vsftpd",
            before=lambda s: _mirror(s, many, "many"),
        )

    def logins(self) -> None:
        """Connections that log in and leave, four at a time, with unchanged credentials."""
        began = time.perf_counter()
        _log_in(self.ours, 1)
        print(f"first login after a start: {(time.perf_counter() - began) * 1000:.0f} ms")
        self.compare("logins", LOGINS, lambda s: _log_in(s, LOGINS if s is self.ours else 100), None)

    def accounts(self) -> None:
        """Logins with 100,000 accounts instead of one."""
        before = [LOGINS / _log_in(self.ours, LOGINS) for _ in range(self.options.rounds)]
        _add_accounts(self.data, 100_000)
        _log_in(self.ours, 1)
        after = [LOGINS / _log_in(self.ours, LOGINS) for _ in range(self.options.rounds)]
        print(
            f"logins with 100,000 accounts: {statistics.median(after):.0f}/s, "
            f"ratio to those with one {statistics.median(after) / statistics.median(before):.2f}"
        )

    def compare(
        self,
        what: str,
        amount: int,
        work: Work,
        target: float | None,
        *,
        against: str = "",
        before: Work | None = None,
        after: Work | None = None,
    ) -> None:
        """Let every server do the work, in turns, and print the rates and our ratio to the best peer, or to one."""
        servers = [self.ours, *self.peers]
        rates: dict[str, list[float]] = {server.name: [] for server in servers}
        costs: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            if before is not None:
                before(server)
        for number in range(self.options.rounds + 1):
            # Who goes first alternates: the first of a round may find colder caches.
            for server in servers if number % 2 else reversed(servers):
                cpu = server.cpu_seconds()
                done = LOGINS if amount is LOGINS else amount
                if amount == LOGINS and server is not self.ours:
                    done = 100
                seconds = work(server)
                if number:  # the first round warms up
                    rates[server.name].append(done / seconds)
                    costs[server.name].append((server.cpu_seconds() - cpu) / done)
                if after is not None:
                    after(server)
        best = against or max((peer.name for peer in self.peers), key=lambda name: statistics.median(rates[name]))
        ratio = statistics.median(a / b for a, b in zip(rates["wsp"], rates[best], strict=True))
        verdict = "" if target is None else "ok" if ratio >= target else f"BELOW {target}"
        medians = "  ".join(
            f"{name} {statistics.median(rates[name]):6.0f} ({statistics.median(costs[name]) * 1000:.2f} ms cpu)"
            for name in rates
        )
        print(f"{what:16} {medians}  ratio to {best} {ratio:.2f} {verdict}", flush=True)


def _make_source(folder: Path, mebibytes: int, files: int) -> None:
    (folder / "many").mkdir(parents=True)
    with (folder / "stream").open("wb") as stream:
        for _ in range(mebibytes):
            stream.write(os.urandom(MEBIBYTE))
    for number in range(files):
        (folder / "many" / f"{number:05}.bin").write_bytes(os.urandom(FILE_BYTES))


# --- Clients ----------------------------------------------------------------------------------------------------


def _upload(server: Server, stream: Path, name: str = "stream", *options: str) -> float:
    return _curl(server, "-T", str(stream), f"{_url(server)}{name}", *options)


def _remove_new(server: Server) -> float:
    return _curl(server, "-Q", f"DELE {server.path}new", "-o", "/dev/null", f"ftp://127.0.0.1:{server.port}/")


def _download(server: Server, *options: str) -> float:
    return _curl(server, "-o", "/dev/null", f"{_url(server)}stream", *options)


def _url(server: Server) -> str:
    return f"ftp://127.0.0.1:{server.port}/{server.path}"


def _curl_command(server: Server, *arguments: str) -> list[str]:
    return [
        *("curl", "-sS", "-u", f"{server.user}:{server.password}"),
        *("-w", "%{stderr}%{time_total} %{time_pretransfer}"),
        *arguments,
    ]


def _curl(server: Server, *arguments: str) -> float:
    """Seconds of the transfer alone, as curl tells them."""
    done = subprocess.run(
        _curl_command(server, *arguments), check=True, timeout=CLIENT_SECONDS, stderr=subprocess.PIPE, text=True
    )
    total, before = (float(word) for word in done.stderr.split()[-2:])
    return total - before


def _at_once(server: Server, part: Path, *, up: bool) -> float:
    """Seconds from the first transfer's beginning to the last one's end; logins are not in them."""
    clients = []
    for number in range(STREAMS):
        where = ("-T", str(part), f"{_url(server)}part{number}") if up else ("-o", "/dev/null", f"{_url(server)}part")
        began = time.perf_counter()
        clients.append((began, subprocess.Popen(_curl_command(server, *where), stderr=subprocess.PIPE, text=True)))
    spans = []
    for began, client in clients:
        _, said = client.communicate(timeout=CLIENT_SECONDS)
        if client.returncode:
            sys.exit(f"curl failed with {server.name}: {said}")
        total, before = (float(word) for word in said.split()[-2:])
        spans.append((began + before, began + total))
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def _mirror(server: Server, folder: Path, target: str = "") -> float:
    return _lftp(
        server, f"mirror -R --parallel={CONNECTIONS} {folder} {server.path}{target or f'm{time.monotonic_ns()}'}"
    )


def _mirror_back(server: Server, folder: Path) -> float:
    seconds = _lftp(server, f"mirror --parallel={CONNECTIONS} {server.path}many {folder}")
    shutil.rmtree(folder)
    return seconds


def _lftp(server: Server, command: str) -> float:
    script = (
        f"set ftp:ssl-allow no; open -u {server.user},{server.password} ftp://127.0.0.1:{server.port}; {command}; quit"
    )
    began = time.perf_counter()
    subprocess.run(["lftp", "-c", script], check=True, timeout=CLIENT_SECONDS, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _log_in(server: Server, count: int) -> float:
    """Seconds for so many logins. A client of few instructions: what is measured is the server."""
    failures: list[str] = []

    def work(times: int) -> None:
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", server.port), timeout=CLIENT_SECONDS) as client:
                client.recv(4096)
                for line in (f"USER {server.user}", f"PASS {server.password}"):
                    client.sendall(f"{line}\r\n".encode())
                    reply = client.recv(4096)
                if b"230" not in reply:
                    failures.append(repr(reply))
                client.sendall(b"QUIT\r\n")
                client.recv(4096)

    threads = [
        threading.Thread(target=work, args=(max(count // CONNECTIONS, 1),)) for _ in range(min(CONNECTIONS, count))
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"{server.name} refused a login: {failures[0]}")
    return time.perf_counter() - began


# --- wsp --------------------------------------------------------------------------------------------------------


def _prepare(data: Path) -> Path:
    settings = load_settings(data_dir=data)
    database = Database(settings.database)
    schema.upgrade(database)
    now = utc_now()
    with database.transaction() as session:
        session.add(User(username="bench", role="user", created_at=now, updated_at=now))
        session.flush()
        session.add(_account(USER, hash_password(PASSWORD)))
    database.close()
    return data


def _account(username: str, hashed: str) -> FtpAccount:
    now = utc_now()
    return FtpAccount(
        username=username,
        owner="bench",
        home_dir="/home/bench",
        password_hash=hashed,
        quota_mb=QUOTA_MB,
        allowed_ips=[],
        created_at=now,
        updated_at=now,
    )


def _add_accounts(data: Path, count: int) -> None:
    database = Database(load_settings(data_dir=data).database)
    hashed = hash_password(PASSWORD)
    with database.transaction() as session:
        session.add_all(_account(f"bench_{number:06}", hashed) for number in range(count))
    database.close()


@contextmanager
def _ours(data: Path, certificate: Path, *, port: int | None = None) -> Iterator[Server]:
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", OURS, str(port), str(data)],
        env={**os.environ, "WSP_FTP_TLS_CERT": str(certificate), "WSP_FTP_TLS_KEY": str(certificate)},
    )
    try:
        wait_for(port, process, "wsp")
        yield Server("wsp", port, process.pid, USER, PASSWORD, data / "files" / "home" / "bench")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
