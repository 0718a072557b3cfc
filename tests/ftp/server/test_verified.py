"""The short memory of right passwords."""

from wsp.ftp.server.verified import KEEP_ENTRIES, KEEP_SECONDS, VerifiedPasswords


class TestKnows:
    def test_the_same_password_for_the_same_hash(self) -> None:
        verified = VerifiedPasswords()
        assert not verified.knows("a", "secret", "hash", now=0)
        verified.remember("a", "secret", "hash", now=0)
        assert verified.knows("a", "secret", "hash", now=1)
        assert not verified.knows("a", "other", "hash", now=1)
        assert not verified.knows("b", "secret", "hash", now=1)
        assert not verified.knows("a", "\udcff", "hash", now=1)

    def test_nothing_after_the_password_was_changed(self) -> None:
        verified = VerifiedPasswords()
        verified.remember("a", "secret", "hash", now=0)
        assert not verified.knows("a", "secret", "new hash", now=1)

    def test_nothing_after_a_while(self) -> None:
        verified = VerifiedPasswords()
        verified.remember("a", "secret", "hash", now=0)
        assert not verified.knows("a", "secret", "hash", now=KEEP_SECONDS)

    def test_the_oldest_is_forgotten_when_there_are_too_many(self) -> None:
        verified = VerifiedPasswords()
        for number in range(KEEP_ENTRIES + 1):
            verified.remember(str(number), "secret", "hash", now=0)
        assert not verified.knows("0", "secret", "hash", now=1)
        assert verified.knows("1", "secret", "hash", now=1)
