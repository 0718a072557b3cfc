"""Whatever changes what an FTP session may do moves the epoch, in the same transaction."""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.auth.service import change_user, create_user, remove_user
from wsp.database import Database
from wsp.ftp.anonymous import change_access
from wsp.ftp.logins import find_login, find_logins, replace_password_hash
from wsp.ftp.service import change_account, create_account, delete_account, toggle_account

CHANGES: dict[str, Callable[[Session], object]] = {
    "an account": lambda session: change_account(session, None, "ann_web", {"read_only": True}),
    "a password": lambda session: change_account(session, None, "ann_web", {"password_hash": "y"}),
    "enabled": lambda session: toggle_account(session, None, "ann_web"),
    "deleted": lambda session: delete_account(session, None, "ann_web"),
    "anonymous access": lambda session: change_access(
        session, None, "a.example", owner="ann", changes={"enabled": False}
    ),
    "an owner's status": lambda session: change_user(session, "ann", status="disabled"),
    "an owner is removed": lambda session: remove_user(session, "bob"),
}


@pytest.fixture
def filled(database: Database) -> Database:
    with database.transaction() as session:
        create_user(session, "root", role="admin")
        create_user(session, "ann")
        create_user(session, "bob")
        create_account(session, owner="ann", name="web", password_hash="x")
        change_access(session, None, "a.example", owner="ann", changes={"enabled": True})
    return database


def value(database: Database) -> int:
    with database.reading() as session:
        return epochs.current(session)["ftp"]


class TestMoving:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_every_change_that_matters_moves_it(self, filled: Database, change: Callable[[Session], object]) -> None:
        before = value(filled)
        with filled.transaction() as session:
            change(session)
        assert value(filled) == before + 1

    def test_what_changes_nothing_does_not(self, filled: Database) -> None:
        before = value(filled)
        with filled.transaction() as session:
            change_account(session, None, "ann_web", {})
            change_user(session, "ann", email="ann@example.com")
        assert value(filled) == before


class TestCredentialVersion:
    def test_a_new_password_moves_it_and_a_better_hash_of_the_same_one_does_not(self, filled: Database) -> None:
        def version() -> int:
            with filled.reading() as session:
                login = find_login(session, "ann_web")
            assert login is not None
            return login.credential_version

        assert version() == 1
        with filled.transaction() as session:
            assert replace_password_hash(session, "ann_web", "x", "better")
        assert version() == 1
        with filled.transaction() as session:
            change_account(session, None, "ann_web", {"password_hash": "another"})
        assert version() == 2


class TestFindLogins:
    def test_each_name_is_what_it_is_now_or_none(self, filled: Database) -> None:
        names = {"ann_web", "ann_gone", "anonymous@a.example", "anonymous@b.example", *(f"n_{i}" for i in range(1200))}
        with filled.reading() as session:
            found = find_logins(session, names)
            assert found["ann_web"] == find_login(session, "ann_web")
        assert set(found) == names
        anonymous = found["anonymous@a.example"]
        assert anonymous is not None
        assert (anonymous.owner, anonymous.anonymous) == ("ann", True)
        assert {name for name, login in found.items() if login is not None} == {"ann_web", "anonymous@a.example"}
