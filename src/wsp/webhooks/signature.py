"""How a delivery shows that it comes from here and was not changed."""

import hashlib
import hmac
import secrets

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_HEX_DIGITS = 48


def new_secret() -> str:
    """A secret to sign with."""
    return SECRET_PREFIX + secrets.token_hex(SECRET_HEX_DIGITS // 2)


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of `X-Wsp-Signature`: HMAC-SHA256 (RFC 2104) of `<timestamp>.<body>`, in hex."""
    return "sha256=" + hmac.digest(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hex()
