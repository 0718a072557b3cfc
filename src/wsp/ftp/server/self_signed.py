"""The self-signed certificate that the server makes for itself when it is given none."""

import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wsp.database import utc_now
from wsp.errors import StartupError

LIFETIME = timedelta(days=3650)
RENEW_BEFORE = timedelta(days=1)
CLOCK_SKEW = timedelta(days=1)
KEY_MODE = 0o600
FOLDER_MODE = 0o700
MAX_COMMON_NAME = 64  # RFC 5280, ub-common-name
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on


def own_certificate(folder: Path, listening: str) -> tuple[Path, Path]:
    """The certificate in `folder` and its key, made if missing, unusable or about to expire. Raises StartupError."""
    certificate, key = folder / "ftp.crt", folder / "ftp.key"
    try:
        with _locked(folder):
            if not _is_usable(certificate, key, now=utc_now()):
                _write_self_signed(certificate, key, _names(listening), now=utc_now())
    except OSError as error:
        raise StartupError(
            f"cannot keep a certificate in {folder} ({error.strerror}); a writable WSP_DATA_DIR is needed"
        ) from None
    return certificate, key


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: several workers start at once, and share what the first one makes."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, KEY_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_usable(certificate: Path, key: Path, *, now: datetime) -> bool:
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return False
    return parsed.not_valid_after_utc > now + RENEW_BEFORE and private.public_key() == parsed.public_key()


def _names(listening: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    for text in ("127.0.0.1", "::1", *([] if listening in _ANY else [listening]), socket.gethostname()):
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            if not text.isascii() or not text:
                continue
            name = x509.DNSName(text)
        if name not in names:
            names.append(name)
    return names


def _write_self_signed(certificate: Path, key: Path, names: list[x509.GeneralName], *, now: datetime) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    common_name = (socket.gethostname() or "localhost")[:MAX_COMMON_NAME]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _replace(key, pem, KEY_MODE)
    _replace(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that nobody ever reads half of it, nor reads the key before its mode is set."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
