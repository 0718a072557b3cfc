"""Counters that every process adds to and `/metrics` shows: they only grow, across restarts and processes.

A process counts in memory, and now and then writes what has come together, in one short transaction.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Double, Insert, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from wsp.database import Base, insert_into

_LABEL = re.compile(r'(\w+)="([^"]*)"')


class CounterRow(Base):
    """A counter's value, summed over all processes of a machine."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)  # `status="failed",trigger="manual"`
    node: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[float] = mapped_column(Double)


@dataclass(frozen=True)
class Histogram:
    """The name of a histogram and the upper bounds of its buckets, in ascending order (seconds for times)."""

    name: str
    bounds: tuple[float, ...]


class Counters:
    """What this process has counted since the last `write`. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], float] = {}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count. `name` is that of the metric without its prefix; label values come from a small fixed set."""
        key = name, ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        with self._lock:
            self._counted[key] = self._counted.get(key, 0.0) + amount

    def observe(self, histogram: Histogram, value: float) -> None:
        """Count a value into the bucket that it belongs to (not cumulative), and into `_sum` and `_count`."""
        bound = next((bound for bound in histogram.bounds if value <= bound), float("inf"))
        self.add(f"{histogram.name}_bucket", le="+Inf" if bound == float("inf") else f"{bound:g}")
        self.add(f"{histogram.name}_sum", value)
        self.add(f"{histogram.name}_count")

    def write(self, session: Session, node: str) -> None:
        """Add what was counted to the stored values. What a failed transaction took with it has to be `put_back`."""
        taken = self.take()
        if taken:
            add_to_stored(session, node, taken)

    def take(self) -> dict[tuple[str, str], float]:
        """What was counted, which is forgotten here."""
        with self._lock:
            taken, self._counted = self._counted, {}
        return taken

    def put_back(self, taken: dict[tuple[str, str], float]) -> None:
        """Count again what could not be written."""
        with self._lock:
            for key, amount in taken.items():
                self._counted[key] = self._counted.get(key, 0.0) + amount


def add_to_stored(session: Session, node: str, counted: dict[tuple[str, str], float]) -> None:
    """Add amounts to the stored counters of a node."""
    rows = [
        {"name": name, "labels": labels, "node": node, "value": amount}
        for (name, labels), amount in sorted(counted.items())  # always in one order: no two writers wait in a ring
    ]
    statement = insert_into(session, CounterRow)
    upsert: Insert = statement.on_conflict_do_update(
        index_elements=[CounterRow.name, CounterRow.labels, CounterRow.node],
        set_={"value": CounterRow.value + statement.excluded.value},
    )
    session.execute(upsert, rows)


def labels_of(row: CounterRow) -> dict[str, str]:
    """The labels of a stored counter, by name."""
    return dict(_LABEL.findall(row.labels))


def stored(session: Session) -> Iterable[CounterRow]:
    """Every counter there is."""
    return session.scalars(select(CounterRow).order_by(CounterRow.name, CounterRow.labels, CounterRow.node)).all()
