"""One HTTP request to a webhook's target, bounded in time and in what is read of the answer."""

import io
import socket
import ssl
import time
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from wsp.webhooks.targets import Target, Undeliverable, resolve

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 10.0  # from the look-up of the name to the answer's status
EXCERPT_BYTES = 400  # read of the body of an answer that is not a success
EXCERPT_CHARACTERS = 150


def post(target: Target, body: bytes, headers: dict[str, str], *, allow_private: bool) -> tuple[int, str]:
    """Send the body. Returns the status of the answer, and the beginning of its text if it is no success.

    A redirect is an answer like any other: it is not followed. Blocks. Raises Undeliverable.
    """
    deadline = time.monotonic() + WHOLE_SECONDS
    addresses = resolve(target, allow_private=allow_private)
    try:
        with _connect(target, addresses, deadline) as connected:
            return _ask(_Bounded(connected, deadline), target, body, headers)
    except TimeoutError:
        raise Undeliverable(f"no answer within {WHOLE_SECONDS:g} seconds") from None
    except ssl.SSLCertVerificationError as error:
        raise Undeliverable(f"its certificate is not valid: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise Undeliverable(f"TLS failed: {error.reason or error}") from None
    except OSError as error:
        raise Undeliverable(f"the connection failed: {error.strerror or error}") from None
    except HTTPException as error:
        raise Undeliverable(f"the answer is not HTTP: {type(error).__name__}") from None


def _connect(
    target: Target, addresses: list[tuple[socket.AddressFamily, Any]], deadline: float
) -> socket.socket | ssl.SSLSocket:
    connected = _first_that_answers(addresses, deadline)
    if target.scheme == "http":
        return connected
    try:
        connected.settimeout(_left(deadline))
        return _tls().wrap_socket(connected, server_hostname=target.host)
    except BaseException:
        connected.close()
        raise


def _first_that_answers(addresses: list[tuple[socket.AddressFamily, Any]], deadline: float) -> socket.socket:
    trouble: OSError | None = None
    until = min(deadline, time.monotonic() + CONNECT_SECONDS)
    for number, (family, address) in enumerate(addresses):
        candidate = socket.socket(family, socket.SOCK_STREAM)
        try:
            # An address that swallows packets leaves time for those after it.
            candidate.settimeout(_left(until) / (len(addresses) - number))
            candidate.connect(address)
        except TimeoutError:
            trouble = OSError(f"no connection within {CONNECT_SECONDS:g} seconds")
        except OSError as error:
            trouble = error
        else:
            return candidate
        candidate.close()
    raise trouble or OSError("the name has no address")


def _ask(connected: "_Bounded", target: Target, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    connection = HTTPConnection(target.host, target.port)
    connection.sock = connected  # it only composes the request; where to is decided already
    connection.request("POST", target.path, body, {"Host": target.authority, "Connection": "close", **headers})
    response = HTTPResponse(connected, method="POST")  # type: ignore[arg-type]  # needs `makefile` alone
    with response:
        response.begin()
        return response.status, "" if 200 <= response.status < 300 else _excerpt(response)


def _excerpt(response: HTTPResponse) -> str:
    try:
        beginning = response.read(EXCERPT_BYTES)
    except (OSError, HTTPException):
        return ""  # the status is what counts
    text = "".join(char if char.isprintable() else " " for char in beginning.decode("utf-8", "replace"))
    return " ".join(text.split())[:EXCERPT_CHARACTERS]


class _Bounded:
    """A connected socket whose every step is given no longer than is left until a deadline.

    A timeout of a socket is for each step alone: a target that sends a byte now and then would never run into it.
    """

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_left(self._deadline))
            rest = rest[self._socket.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket, self._deadline))

    def close(self) -> None:
        """The socket is closed by who opened it."""


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@cache
def _tls() -> ssl.SSLContext:
    """Made with the first need: the certificates of authorities take megabytes."""
    return ssl.create_default_context()
