"""The TLS context of the FTP server, and the self-signed certificate that it makes for itself."""

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
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from wsp.database import utc_now
from wsp.errors import StartupError
from wsp.settings import Settings

LIFETIME = timedelta(days=3650)
RENEW_BEFORE = timedelta(days=1)
CLOCK_SKEW = timedelta(days=1)
KEY_MODE = 0o600
FOLDER_MODE = 0o700
MAX_COMMON_NAME = 64  # RFC 5280, ub-common-name
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on
_KEYS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
_SESSION_CONTEXT = b"wsp-ftp"


def make_context(settings: Settings) -> SSL.Context:
    """The context for control and data channels: TLS 1.2 or newer. Raises StartupError."""
    if settings.ftp_tls_cert is not None and settings.ftp_tls_key is not None:
        return _context(settings.ftp_tls_cert, settings.ftp_tls_key)
    folder = settings.data_dir / "tls"
    certificate, key = folder / "ftp.crt", folder / "ftp.key"
    try:
        with _locked(folder):
            if not _is_usable(certificate, key, now=utc_now()):
                _write_self_signed(certificate, key, _names(settings.ftp_host), now=utc_now())
    except OSError as error:
        raise StartupError(
            f"cannot keep a certificate in {folder} ({error.strerror}); a writable WSP_DATA_DIR is needed"
        ) from None
    return _context(certificate, key)


def _context(certificate: Path, key: Path) -> SSL.Context:
    for name, path in (("WSP_FTP_TLS_CERT", certificate), ("WSP_FTP_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise StartupError(f"{name}: cannot read {path} ({error.strerror}); a PEM file is allowed") from None
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # A session that is idle would keep 32 KB of buffers for what it may send or receive one day.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Clients resume the control channel's session on the data channel; a server without an id refuses that.
    context.set_session_id(_SESSION_CONTEXT)
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    try:
        context.use_certificate_chain_file(os.fspath(certificate))
    except SSL.Error:
        raise StartupError(f"WSP_FTP_TLS_CERT: {certificate} holds no PEM certificate") from None
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        if not isinstance(private, _KEYS):
            raise TypeError("a key of a kind that TLS does not use")
        context.use_privatekey(private)
        context.check_privatekey()
    except (SSL.Error, ValueError, TypeError):
        raise StartupError(
            f"WSP_FTP_TLS_KEY: {key} holds no PEM private key without passphrase that belongs to the certificate"
        ) from None
    return context


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
