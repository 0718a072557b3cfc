"""Answers kept for clients that repeat a request."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base


class StoredAnswer(Base):
    """The answer to a POST that carried an `Idempotency-Key`, committed together with what the POST did."""

    __tablename__ = "idempotency_keys"

    api_key_id: Mapped[str] = mapped_column(String(16), ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    sealed_body: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted: the answer may hold a new key's secret
    created_at: Mapped[datetime] = mapped_column(index=True)
