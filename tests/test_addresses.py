"""Addresses against networks."""

import pytest

from wsp.addresses import address_allowed


class TestAddressAllowed:
    @pytest.mark.parametrize(
        ("address", "networks", "allowed"),
        [
            ("203.0.113.7", [], True),
            ("203.0.113.7", ["203.0.113.0/24"], True),
            ("203.0.113.7", ["203.0.113.7"], True),
            ("203.0.114.7", ["203.0.113.0/24"], False),
            ("::ffff:203.0.113.7", ["203.0.113.0/24"], True),
            ("2001:db8::1", ["203.0.113.0/24", "2001:db8::/32"], True),
            ("not an address", ["0.0.0.0/0"], False),
        ],
    )
    def test_by_network(self, address: str, networks: list[str], allowed: bool) -> None:
        assert address_allowed(address, networks) is allowed
