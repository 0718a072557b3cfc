"""`Idempotency-Key`: a repeated POST gets the first one's answer, and does nothing a second time.

The answer is stored in the transaction of the request itself, so there is no moment in which the thing was done
but the answer is not known. It is encrypted with the API key of the caller, which the server does not keep: an
answer may hold a secret that is shown once. A request that failed did nothing and stored nothing.
"""

import base64
import hashlib
from datetime import timedelta

from cryptography.fernet import Fernet
from fastapi import Request, Response
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from wsp.database import utc_now
from wsp.errors import Conflict, Invalid, Unauthorized
from wsp.rest.models import StoredAnswer

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
KEPT = timedelta(hours=24)
MAX_KEY_CHARS = 255

_CLAIM = "wsp_claim"


class Replay(Exception):
    """The request was answered before; this is the answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Claim:
    """A POST with an `Idempotency-Key`, from its arrival to its answer."""

    def __init__(self, key: str, request_hash: str, request: Request) -> None:
        self._key = key
        self._request_hash = request_hash
        self._request = request
        self._row: StoredAnswer | None = None

    def take(self, session: Session) -> None:
        """Reserve the key, or raise Replay with the stored answer, or Conflict for another request's key."""
        now = utc_now()
        api_key_id: str = self._request.state.key_id
        session.execute(delete(StoredAnswer).where(StoredAnswer.created_at <= now - KEPT))
        stored = session.get(StoredAnswer, (api_key_id, self._key))
        if stored is None:
            row = StoredAnswer(
                api_key_id=api_key_id,
                key=self._key,
                request_hash=self._request_hash,
                status=0,
                sealed_body=b"",
                created_at=now,
            )
            try:
                with session.begin_nested():
                    session.add(row)
            except IntegrityError:  # the same request at the same moment won; it has committed by now
                stored = session.get(StoredAnswer, (api_key_id, self._key))
                if stored is None:
                    raise Unauthorized from None  # it was not the row that was in the way: the API key is gone
            else:
                self._row = row
                return
        if stored.request_hash != self._request_hash:
            raise Conflict(f"{HEADER} was already used for another request")
        raise Replay(stored.status, self._seal().decrypt(stored.sealed_body))

    def keep(self, response: Response) -> None:
        """Put the answer into the row; it is committed with everything else."""
        if self._row is not None:
            self._row.status = response.status_code
            self._row.sealed_body = self._seal().encrypt(bytes(response.body))

    def _seal(self) -> Fernet:
        secret: str = self._request.state.key_secret
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"wsp idempotency\0" + secret.encode()).digest()))


async def make_claim(request: Request) -> Claim | None:
    """The claim of a POST that carries the header. `leave_claim` finds it from now on."""
    key = request.headers.get(HEADER)
    if request.method != "POST" or key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
        raise Invalid(f"{HEADER} must have 1 to {MAX_KEY_CHARS} printable characters", field=HEADER)
    asked = f"{request.method} {request.url.path.rstrip('/')}?{request.url.query}\n".encode() + await request.body()
    claim = Claim(key, hashlib.sha256(asked).hexdigest(), request)
    request.state.claim = claim
    return claim


def leave_claim(request: Request, session: Session) -> None:
    """Leave the request's claim, if it made one, with the session that the endpoint is going to be given."""
    session.info[_CLAIM] = getattr(request.state, "claim", None)


def take_claim(session: object) -> None:
    """Take the claim that was left with the session, if any. Call it on the thread that the endpoint will run on.

    It may wait for another request's transaction, which needs no further thread to come to its end; were it to wait
    on a thread of its own, those who wait could take all the threads that those they wait for still need.
    """
    if isinstance(session, Session) and (claim := session.info.get(_CLAIM)) is not None:
        claim.take(session)
