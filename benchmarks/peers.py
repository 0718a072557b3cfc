"""The FTP servers that wsp is measured against: vsftpd, pure-ftpd and proftpd, as Debian builds them.

Their packages exclude one another, so each is unpacked into a folder of its own and started from there, on the
loopback, with a configuration that does what the benchmarks need and nothing else. Needs root, apt-get and dpkg.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from passlib.hash import sha512_crypt

# With the libraries that a machine without them lacks.
PACKAGES = {
    "vsftpd": ("vsftpd", "libwrap0"),
    "pure-ftpd": ("pure-ftpd", "pure-ftpd-common"),
    "proftpd": (
        "proftpd-core",
        "proftpd-mod-crypto",
        *("libhiredis0.14", "libmemcached11", "libmemcachedutil2", "libpcre2-posix3", "libhashkit2"),
    ),
}
LIBRARIES = ("usr/lib", "lib")
START_SECONDS = 20.0
PASSIVE_PORTS = (21000, 29999)
OWNER = 65534  # nobody: whom the files belong to
DAEMON = 1  # the same for vsftpd


@dataclass
class Server:
    """A running server, and how to log in to it."""

    name: str
    port: int
    pid: int
    user: str
    password: str
    home: Path
    path: str = ""
    """The folder to work in, as in `files/`; empty for the root."""
    others: list[int] = field(default_factory=list)
    """Pids of further processes that serve with it."""

    def cpu_seconds(self) -> float:
        """Processor time used so far, by the server and all of its processes that have ended or still run."""
        return sum(_cpu_seconds(pid) for top in [self.pid, *self.others] for pid in [top, *_descendants(top)])


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unpack(folder: Path) -> dict[str, Path]:
    """Fetch the Debian packages and unpack each server into a folder of its own. Raises CalledProcessError."""
    roots = {}
    for name, packages in PACKAGES.items():
        root = folder / name
        root.mkdir(parents=True)
        subprocess.run(
            ["apt-get", "download", "-q", *packages],
            cwd=root,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for package in root.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        roots[name] = root
    return roots


@contextmanager
def vsftpd(root: Path, folder: Path, certificate: Path, *, user: str, password: str) -> Iterator[Server]:
    """vsftpd, with anonymous logins that may write: its own accounts are the machine's."""
    home = _home(folder, 0)  # it refuses a root folder that the user may write
    (home / "files").mkdir()
    os.chown(home / "files", DAEMON, DAEMON)
    empty = folder / "empty"
    empty.mkdir()
    port = free_port()
    configuration = {
        "listen": "YES",
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "background": "NO",
        "anonymous_enable": "YES",
        "no_anon_password": "YES",
        "anon_root": home,
        "anon_umask": "022",
        "anon_upload_enable": "YES",
        "anon_mkdir_write_enable": "YES",
        "anon_other_write_enable": "YES",
        "anon_world_readable_only": "NO",
        "write_enable": "YES",
        "allow_writeable_chroot": "YES",
        "ftp_username": "daemon",  # it needs a home that exists
        "nopriv_user": "nobody",
        "secure_chroot_dir": empty,
        "seccomp_sandbox": "NO",
        "pasv_min_port": PASSIVE_PORTS[0],
        "pasv_max_port": PASSIVE_PORTS[1],
        "xferlog_enable": "YES",
        "xferlog_file": folder / "xferlog",
        "ssl_enable": "YES",
        "allow_anon_ssl": "YES",
        "rsa_cert_file": certificate,
        "rsa_private_key_file": certificate,
        "force_local_data_ssl": "NO",
        "force_local_logins_ssl": "NO",
        "require_ssl_reuse": "NO",
        "max_clients": 0,
        "max_per_ip": 0,
    }
    path = folder / "vsftpd.conf"
    path.write_text("".join(f"{name}={value}\n" for name, value in configuration.items()))
    with _running("vsftpd", [root / "usr/sbin/vsftpd", path], port, "anonymous", password, home) as server:
        server.path = "files/"
        yield server


@contextmanager
def pure_ftpd(root: Path, folder: Path, certificate: Path, *, user: str, password: str) -> Iterator[Server]:
    """pure-ftpd, with one virtual user."""
    home = _home(folder)
    port = free_port()
    passwords, database = folder / "passwd", folder / "pureftpd.pdb"
    # As crypt(3) has it: what pure-pw would choose takes seconds of processor time for each login.
    hashed = sha512_crypt.using(rounds=5000).hash(password)
    passwords.write_text(f"{user}:{hashed}:{OWNER}:{OWNER}::{home}/./::::::::::::\n")
    subprocess.run([root / "usr/bin/pure-pw", "mkdb", database, "-f", passwords], check=True)
    command: list[str | Path] = [
        root / "usr/sbin/pure-ftpd",
        "-S",
        f"127.0.0.1,{port}",
        "-l",
        f"puredb:{database}",
        "-E",
        "-H",
        "-A",
    ]
    command += ["-c", "10000", "-C", "10000", "-p", f"{PASSIVE_PORTS[0]}:{PASSIVE_PORTS[1]}", "-Y", "1"]
    command += [f"--certfile={certificate}", "-g", folder / "pid", "-O", f"clf:{folder / 'transfers'}"]
    with _running("pure-ftpd", command, port, user, password, home) as server:
        yield server


@contextmanager
def proftpd(root: Path, folder: Path, certificate: Path, *, user: str, password: str) -> Iterator[Server]:
    """proftpd, with one user of a password file of its own."""
    home = _home(folder)
    port = free_port()
    passwords = folder / "passwd"
    hashed = sha512_crypt.using(rounds=5000).hash(password)
    passwords.write_text(f"{user}:{hashed}:{OWNER}:{OWNER}::{home}:/bin/false\n")
    passwords.chmod(0o600)
    path = folder / "proftpd.conf"
    path.write_text(
        f"""\
ModulePath {root}/usr/lib/proftpd
LoadModule mod_tls.c
ServerName bench
ServerType standalone
DefaultServer on
DefaultAddress 127.0.0.1
SocketBindTight on
Port {port}
UseIPv6 off
User root
Group root
PidFile {folder}/pid
ScoreboardFile {folder}/scoreboard
DelayTable none
DelayEngine off
SystemLog none
WtmpLog off
TransferLog {folder}/xferlog
AuthOrder mod_auth_file.c
AuthUserFile {passwords}
RequireValidShell off
UseReverseDNS off
MaxInstances none
PassivePorts {PASSIVE_PORTS[0]} {PASSIVE_PORTS[1]}
DefaultRoot ~
AllowOverwrite on
AllowRetrieveRestart on
UseSendfile on
TLSEngine on
TLSProtocol TLSv1.2 TLSv1.3
TLSRSACertificateFile {certificate}
TLSRSACertificateKeyFile {certificate}
TLSOptions NoSessionReuseRequired
TLSVerifyClient off
"""
    )
    command: list[str | Path] = [root / "usr/sbin/proftpd", "-n", "-q", "-c", path]
    with _running("proftpd", command, port, user, password, home) as server:
        yield server


STARTERS = {"vsftpd": vsftpd, "pure-ftpd": pure_ftpd, "proftpd": proftpd}


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate and its RSA key in one PEM file."""
    path = folder / "bench.pem"
    request: list[str | Path] = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    request += ["-subj", "/CN=localhost", "-keyout", folder / "bench.key", "-out", folder / "bench.crt"]
    subprocess.run(request, check=True, stderr=subprocess.DEVNULL)
    path.write_bytes((folder / "bench.key").read_bytes() + (folder / "bench.crt").read_bytes())
    path.chmod(0o600)
    return path


def _home(folder: Path, owner: int = OWNER) -> Path:
    home = folder / "home"
    home.mkdir(parents=True)
    os.chown(home, owner, owner)
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and parent.stat().st_mode & 0o005 != 0o005 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return home


@contextmanager
def _running(name: str, command: list[str | Path], port: int, user: str, password: str, home: Path) -> Iterator[Server]:
    program = Path(command[0])
    root = program.parents[2]
    found = {str(path.parent) for top in LIBRARIES for path in (root / top).rglob("*.so.*")}
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(found))},
    )
    try:
        wait_for(port, process, name)
        yield Server(name, port, process.pid, user, password, home)
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, process: "subprocess.Popen[bytes]", name: str) -> None:
    """Wait until the server answers, or end the program."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                if client.recv(3) == b"220":
                    return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{name} did not start on port {port}")


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process, with that of its children that have ended and were waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[number]) for number in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    except OSError:  # it has ended meanwhile
        return found
    return found
