"""The settings: where they come from, what is refused, and what is said about it."""

from pathlib import Path

import pytest

from wsp.errors import StartupError
from wsp.settings import Settings, load_settings, masked_url, unknown_settings, variable_name

SENDER = "one mail address, as in wsp@example.com or Cron <wsp@example.com>, is allowed"
PORT_RANGE = "a range of ports from 1024 to 65535, as in 50000-50999, is allowed"


class TestDefaults:
    def test_everything_lies_in_the_data_folder(self, tmp_path: Path) -> None:
        settings = load_settings()
        assert settings.data_dir == Path("wsp-data")
        assert settings.files == tmp_path / "wsp-data" / "files"
        assert settings.database == f"sqlite:///{tmp_path}/wsp-data/wsp.db"

    def test_only_this_machine_can_reach_it(self) -> None:
        settings = load_settings()
        assert (settings.http_host, settings.http_port) == ("127.0.0.1", 3082)
        assert (settings.ftp_host, settings.ftp_port) == ("127.0.0.1", 2121)
        assert settings.ftp_passive_ports == (50000, 50999)

    def test_the_zone_is_the_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wsp.settings.get_localzone_name", lambda: "Asia/Tokyo")
        assert str(load_settings().zone) == "Asia/Tokyo"

    def test_a_machine_without_a_named_zone_has_to_name_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nameless() -> str:
            raise LookupError("no name")

        monkeypatch.setattr("wsp.settings.get_localzone_name", nameless)
        with pytest.raises(StartupError, match=r"^WSP_TIMEZONE: .* as in Europe/Berlin$"):
            load_settings()
        assert str(load_settings(timezone="UTC").zone) == "UTC"

    def test_every_field_is_described(self) -> None:
        assert [name for name, field in Settings.model_fields.items() if not field.description] == []


class TestReading:
    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_FTP_PASSIVE_PORTS", "40000-40009")
        monkeypatch.setenv("WSP_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, ::1")
        monkeypatch.setenv("WSP_LOG_LEVEL", "DEBUG")
        settings = load_settings()
        assert settings.ftp_passive_ports == (40000, 40009)
        assert [str(network) for network in settings.http_trusted_proxies] == ["10.0.0.0/8", "::1/128"]
        assert settings.log_level == "debug"

    def test_an_empty_variable_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_HTTP_PORT", "")
        monkeypatch.setenv("WSP_DATABASE_URL", "")
        assert load_settings().http_port == 3082

    def test_a_dotenv_file_below_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("WSP_HTTP_PORT=4000\nWSP_FTP_PORT=4001\nOTHER=1\n")
        monkeypatch.setenv("WSP_FTP_PORT", "5001")
        settings = load_settings()
        assert (settings.http_port, settings.ftp_port) == (4000, 5001)

    def test_a_dotenv_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"WSP_HTTP_PORT=\xff\xfe\n")
        with pytest.raises(StartupError, match=r"^\.env: "):
            load_settings()

    def test_secrets_from_files(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("postgresql://wsp:pass@db/wsp\n")
        monkeypatch.setenv("WSP_DATABASE_URL_FILE", str(secret))
        assert load_settings().database == "postgresql+psycopg://wsp:pass@db/wsp"

    def test_the_name_of_a_secrets_file_from_dotenv(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("hunter2\n")
        (tmp_path / ".env").write_text(f"WSP_SMTP_PASSWORD_FILE={tmp_path / 'secret'}\n")
        password = load_settings().smtp_password
        assert password is not None
        assert password.get_secret_value() == "hunter2"

    def test_a_secrets_file_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_SMTP_PASSWORD_FILE", "/nowhere/secret")
        with pytest.raises(StartupError, match=r"^WSP_SMTP_PASSWORD_FILE: cannot read /nowhere/secret"):
            load_settings()

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_every_spelling_of_postgresql(self, scheme: str) -> None:
        assert load_settings(database_url=f"{scheme}://wsp@db/wsp").database == "postgresql+psycopg://wsp@db/wsp"


class TestRefusing:
    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("WSP_HTTP_PORT", "http", "a whole number from 1 to 65535 is allowed"),
            ("WSP_HTTP_PORT", "0", "a whole number from 1 to 65535 is allowed"),
            ("WSP_FTP_PORT", "70000", "a whole number from 1 to 65535 is allowed"),
            ("WSP_FTP_WORKERS", "0", "a whole number from 1 to 64 is allowed"),
            ("WSP_RATE_LIMIT", "-1", "a whole number from 0 is allowed"),
            ("WSP_FTP_PASSIVE_PORTS", "50000", PORT_RANGE),
            (
                "WSP_FTP_PASSIVE_PORTS",
                "60000-50000",
                PORT_RANGE,
            ),
            ("WSP_FTP_MASQUERADE_ADDRESS", "ftp.example.com", "a numeric address, as in 203.0.113.7, is allowed"),
            ("WSP_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error' is allowed"),
            ("WSP_LOG_FORMAT", "xml", "'text' or 'json' is allowed"),
            ("WSP_TIMEZONE", "Mars/Olympus", "an IANA time zone, as in Europe/Berlin, is allowed"),
            ("WSP_TIMEZONE", "../../etc/passwd", "an IANA time zone, as in Europe/Berlin, is allowed"),
            ("WSP_HTTP_TRUSTED_PROXIES", "10.0.0.0/8,nginx", "addresses or networks, as in 10.0.0.0/8, are allowed"),
            *(
                ("WSP_SMTP_FROM", value, SENDER)
                for value in (
                    "wsp",
                    "wsp@",
                    "@x.org",
                    "<>",
                    "a@b.c, d@e.f",
                    "Cron <a@b.c",
                    "a@b c",
                    "a@b.c\nBcc: d@e.f",
                )
            ),
        ],
    )
    def test_names_the_setting_and_what_is_allowed(
        self, name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(StartupError) as caught:
            load_settings()
        assert caught.value.sentence == f"{name}: {allowed}"

    @pytest.mark.parametrize(
        "url", ["mysql://db/wsp", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://db/wsp"]
    )
    def test_a_database_that_is_not_supported(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_DATABASE_URL", url)
        with pytest.raises(StartupError, match=r"^WSP_DATABASE_URL: sqlite:///.* is allowed$"):
            load_settings()

    def test_never_shows_a_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_DATABASE_URL", "mysql://wsp:hunter2@db/wsp")
        with pytest.raises(StartupError) as caught:
            load_settings()
        assert "hunter2" not in caught.value.sentence

    def test_names_every_wrong_one_in_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_HTTP_PORT", "x")
        monkeypatch.setenv("WSP_LOG_LEVEL", "x")
        with pytest.raises(StartupError, match=r"^WSP_HTTP_PORT: [^\n]*; WSP_LOG_LEVEL: [^\n]*$"):
            load_settings()

    @pytest.mark.parametrize(
        "sender", ["wsp@example.com", "wsp@localhost", "Cron <wsp@x.org>", '"Cron, jobs" <wsp@x.org>', "größe@x.org"]
    )
    def test_no_sender_that_can_be_used(self, sender: str) -> None:
        assert load_settings(smtp_from=sender).smtp_from == sender

    def test_a_certificate_without_its_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_FTP_TLS_CERT", "/etc/cert.pem")
        with pytest.raises(StartupError, match="WSP_FTP_TLS_KEY: both or neither"):
            load_settings()

    def test_one_port_for_ftp_and_implicit_tls(self) -> None:
        with pytest.raises(StartupError, match="WSP_FTP_PORT and WSP_FTP_IMPLICIT_TLS_PORT: both are 2121"):
            load_settings(ftp_port=2121, ftp_implicit_tls_port=2121)


class TestUnknownVariables:
    def test_are_named_with_the_likely_intention(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("WSP_HTTP_PROT", "1")
        (tmp_path / ".env").write_text("WSP_QQQQQ=1\n")
        assert unknown_settings() == [
            "WSP_HTTP_PROT is not a setting; did you mean WSP_HTTP_PORT?",
            "WSP_QQQQQ is not a setting",
        ]

    def test_known_ones_are_not_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for field_name in Settings.model_fields:
            monkeypatch.setenv(variable_name(field_name), "1")
        monkeypatch.setenv("WSP_DATABASE_URL_FILE", "/run/secrets/url")
        assert unknown_settings() == []

    def test_a_file_for_what_is_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSP_HTTP_PORT_FILE", "/run/secrets/port")
        assert unknown_settings() == ["WSP_HTTP_PORT_FILE is not a setting; did you mean WSP_HTTP_PORT?"]


class TestShowingTheDatabase:
    @pytest.mark.parametrize(
        "url",
        [
            "postgresql+psycopg://wsp:hunter2@db/wsp",
            "postgresql+psycopg://wsp@db/wsp?password=hunter2",
            "postgresql+psycopg://wsp@db/wsp?sslpassword=hunter2&sslmode=require",
        ],
    )
    def test_without_its_password(self, url: str) -> None:
        assert "hunter2" not in masked_url(url)
        assert "db/wsp" in masked_url(url)
