"""Lists: what a search finds, on both stores."""

import pytest
from sqlalchemy import select

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.paging import Page, fetch, matching


class TestSearching:
    @pytest.mark.parametrize("search", ["übung", "ÜBUNG", "Übung 1"])
    def test_ignores_the_case_of_every_alphabet(self, search: str, database: Database) -> None:
        now = utc_now()
        with database.transaction() as session:
            for username, email in (("ann", "Übung 1"), ("bob", "Ubung 1")):
                session.add(User(username=username, email=email, role="user", created_at=now, updated_at=now))
        with database.reading() as session:
            query = matching(select(User), search, [User.email, User.username])
            found, total = fetch(session, query, Page())
        assert [user.username for user in found] == ["ann"]
        assert total == 1

    @pytest.mark.parametrize("search", ["%", "_", "\\"])
    def test_takes_wildcards_as_they_are(self, search: str, database: Database) -> None:
        now = utc_now()
        with database.transaction() as session:
            session.add(User(username="ann", email="", role="user", created_at=now, updated_at=now))
        with database.reading() as session:
            assert fetch(session, matching(select(User), search, [User.username]), Page()) == ([], 0)
