"""Time zones by name, and when their clocks are set."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from wsp.cron.schedule.zones import check_zone, first_change, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


class TestNames:
    @pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "Asia/Kathmandu", "America/Argentina/Buenos_Aires"])
    def test_of_iana_are_known(self, name: str) -> None:
        assert check_zone(name) == name
        assert zone_of(name, BERLIN).key == name

    def test_none_is_the_servers(self) -> None:
        assert check_zone("") == ""
        assert zone_of("", BERLIN) is BERLIN

    @pytest.mark.parametrize(
        "name",
        [
            "Mars/Olympus",
            "Europe",
            "europe/berlin ",
            " ",
            "../Europe/Berlin",
            "/etc/localtime",
            "localtime",
            "posixrules",
            "Factory",
            "right/Europe/Berlin",
            "posix/Europe/Berlin",
            "zone.tab",
            "tzdata.zi",
            "CEST",
            "+02:00",
            "x" * 300,
            "UTC\0",
            "Zürich",
        ],
    )
    def test_of_no_zone_are_refused(self, name: str) -> None:
        for use in (check_zone, lambda text: zone_of(text, BERLIN)):
            with pytest.raises(ValueError, match=r"^Timezone '.*' is not known, use an IANA name") as refused:
                use(name)
            assert str(refused.value).isprintable()
            assert str(refused.value).isascii()


class TestFirstChange:
    def test_is_found_to_the_second(self) -> None:
        change = datetime(2026, 3, 29, 1, tzinfo=UTC)
        for before, after in ((1, 0), (1, 10_000), (5_000, 0), (777, 3_333)):
            begin, end = change - timedelta(seconds=before), change + timedelta(seconds=after)
            assert first_change(begin, end, BERLIN) == change

    def test_the_beginning_is_not_part_of_it(self) -> None:
        change = datetime(2026, 3, 29, 1, tzinfo=UTC)
        assert first_change(change, change + timedelta(hours=5), BERLIN) is None
        assert first_change(change - timedelta(hours=5), change - timedelta(seconds=1), BERLIN) is None
