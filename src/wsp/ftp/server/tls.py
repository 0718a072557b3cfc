"""The certificates of the FTP server: the default one, and more of them by host name (SNI, RFC 6066).

They are read again when their files change. Sessions keep what they began with: nothing of a running one changes.
"""

import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import SSL

from wsp.errors import StartupError
from wsp.ftp.server.self_signed import own_certificate
from wsp.settings import Settings

WILDCARD = "_"  # in the file name of a certificate for *.example.com, as lego and other ACME clients write it

_KEYS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
_SESSION_CONTEXT = b"wsp-ftp"
_MODE_PARTIAL_WRITE = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and has no name for

logger = logging.getLogger(__name__)


class UnusablePair(Exception):
    """A certificate and key that TLS cannot use, with a sentence. `part` is `certificate` or `key`."""

    def __init__(self, part: str, sentence: str) -> None:
        super().__init__(sentence)
        self.part = part


class Pair(NamedTuple):
    """The files of a certificate: the chain and its key, in PEM."""

    certificate: Path
    key: Path

    def stamp(self) -> tuple[Any, ...]:
        """What is another one when a file was written or replaced."""
        return (_stamp(self.certificate), _stamp(self.key))


class Material:
    """A certificate chain and its key, in memory."""

    def __init__(self, pair: Pair) -> None:
        """Read the files. Raises UnusablePair."""
        certificate, key = (_read(part, path) for part, path in pair._asdict().items())
        try:
            self._chain = x509.load_pem_x509_certificates(certificate)
        except ValueError:
            raise UnusablePair("certificate", f"{pair.certificate} holds no PEM certificate") from None
        try:
            private = serialization.load_pem_private_key(key, password=None)
            if not isinstance(private, _KEYS):
                raise TypeError("a key of a kind that TLS does not use")
            self._key = private
            self.new_context()
        except (SSL.Error, ValueError, TypeError):
            raise UnusablePair(
                "key", f"{pair.key} holds no PEM private key without passphrase that belongs to the certificate"
            ) from None

    def new_context(self) -> SSL.Context:
        """A context for control and data channels: TLS 1.2 or newer."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
        # A session that is idle would keep 32 KB of buffers for what it may send or receive one day.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        # A whole chunk goes out in one call, not a record of 16 KB in each.
        context.clear_mode(_MODE_PARTIAL_WRITE)
        # Clients resume the control channel's session on the data channel; a server without an id refuses that.
        context.set_session_id(_SESSION_CONTEXT)
        context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
        leaf, *others = self._chain
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(self._key)
        context.check_privatekey()
        return context

    @cached_property
    def context(self) -> SSL.Context:
        """One that is shared. Made when it is asked for: of the certificates of a big host few are in use at once."""
        return self.new_context()


@dataclass
class _Watched:
    """A pair of files and what came of it. `seen` and `tried` are stamps of the files."""

    pair: Pair
    seen: tuple[Any, ...] = ()
    tried: tuple[Any, ...] = ()
    material: Material | None = None


@dataclass(frozen=True)
class _Current:
    """What new sessions get. Replaced as a whole, because another thread than theirs does it."""

    default: Material
    shared: SSL.Context
    by_name: dict[str, Material] = field(default_factory=dict)


class Certificates:
    """Hands out contexts for sessions. `look()` may run on another thread than the rest."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartupError when the default certificate or the folder of the others cannot be used."""
        self._one_each = settings.ftp_require_tls_resumption
        self._folder = settings.ftp_tls_sni_dir
        if settings.ftp_tls_cert is not None and settings.ftp_tls_key is not None:
            self._default = _Watched(Pair(settings.ftp_tls_cert, settings.ftp_tls_key))
        else:
            self._default = _Watched(Pair(*own_certificate(settings.data_dir / "tls", settings.ftp_host)))
        self._others: dict[str, _Watched] = {}
        self._folder_failed = False
        self._default.tried = self._default.pair.stamp()
        try:
            default = Material(self._default.pair)
        except UnusablePair as error:
            setting = "WSP_FTP_TLS_CERT" if error.part == "certificate" else "WSP_FTP_TLS_KEY"
            raise StartupError(f"{setting}: {error}") from None
        if self._folder is not None and not os.access(self._folder, os.R_OK | os.X_OK):
            raise StartupError(f"WSP_FTP_TLS_SNI_DIR: cannot read {self._folder}; a folder is allowed")
        self._default.material = default
        self._current = _Current(default, self._with_names(default.context))
        self.look(at_once=True)

    def context(self) -> SSL.Context:
        """The context of a new session, for its control connection and all its data connections.

        Sessions share one, unless data connections have to resume the TLS session of their own control connection.
        A context has its own keys for tickets and its own cache of sessions, so with a context that no other session
        has, only its own tickets are of use.
        """
        current = self._current
        return self._with_names(current.default.new_context()) if self._one_each else current.shared

    def look(self, *, at_once: bool = False) -> None:
        """Read again what has changed. Unless `at_once`, files that have just changed get until the next look.

        A pair that cannot be used is logged once for each change, and what was there before it stays in use.
        """
        looked_at = [self._default, *(self._others.values() if self._find_others() else ())]
        changed = [watched for watched in looked_at if _reload(watched, at_once=at_once)]
        by_name = {name: watched.material for name, watched in self._others.items() if watched.material is not None}
        default, shared = self._current.default, self._current.shared
        if self._default in changed and self._default.material is not None:
            default = self._default.material
            shared = self._with_names(default.context)
        if changed or by_name.keys() != self._current.by_name.keys():
            self._current = _Current(default, shared, by_name)

    def _with_names(self, context: SSL.Context) -> SSL.Context:
        context.set_tlsext_servername_callback(self._choose)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        """Called in the middle of a handshake, before the certificate is sent."""
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower().rstrip(".")
        names = self._current.by_name
        material = names.get(name) or names.get(f"{WILDCARD}.{name.partition('.')[2]}")
        if material is not None:
            connection.set_context(material.context)

    def _find_others(self) -> bool:
        """Note which names the folder has certificates for: `<name>.crt` with `<name>.key` beside it.

        False: it could not be read, and everything stays as it is.
        """
        if self._folder is None:
            return True
        try:
            found = {entry.stem.lower(): entry for entry in self._folder.iterdir() if entry.suffix == ".crt"}
        except OSError as error:
            if not self._folder_failed:
                logger.error("certificates stay as they are: cannot read %s (%s)", self._folder, error.strerror)
            self._folder_failed = True
            return False
        self._folder_failed = False
        for name in self._others.keys() - found.keys():
            del self._others[name]
        for name, certificate in found.items():
            self._others.setdefault(name, _Watched(Pair(certificate, certificate.with_suffix(".key"))))
        return True


def is_resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed an earlier TLS session."""
    # pyOpenSSL has no name of its own for this question.
    return bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]


def _reload(watched: _Watched, *, at_once: bool) -> bool:
    """Whether there is something new to use."""
    stamp = watched.pair.stamp()
    settled = stamp == watched.seen
    watched.seen = stamp
    if stamp == watched.tried or not (settled or at_once):
        return False
    watched.tried = stamp
    try:
        material = Material(watched.pair)
    except UnusablePair as error:
        after = "the certificate before it stays in use" if watched.material else "the default one is used instead"
        logger.error("%s; %s", error, after)
        return False
    logger.info("certificate read: %s", watched.pair.certificate)
    watched.material = material
    return True


def _read(part: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusablePair(part, f"cannot read {path} ({error.strerror}); a PEM file is allowed") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
