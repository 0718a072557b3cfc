"""The README: its settings are those of the program, its links lead somewhere, and its tour works as written."""

import re
from pathlib import Path

import pytest

from wsp.settings import Settings, variable_name

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Defaults that depend on the machine or on another setting, as the table puts them.
DESCRIBED_DEFAULTS = {
    "data_dir": "`./wsp-data`",
    "files_root": "`<data dir>/files`",
    "database_url": "`<data dir>/wsp.db`",
    "timezone": "the machine's",
    "ftp_passive_ports": "`50000-50999`",
    "ftp_ban_exempt": "`127.0.0.1,::1`",
}


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    return DESCRIBED_DEFAULTS.get(name) or ("" if default in (None, []) else f"`{default}`")


class TestTheSettingsTable:
    def test_is_what_the_program_says(self) -> None:
        table = re.findall(r"^\| `(WSP_\w+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
        assert [tuple(cell.strip() for cell in row) for row in table] == [
            (variable_name(name), default_of(name), field.description) for name, field in Settings.model_fields.items()
        ]


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_lead_to_files_that_exist(self, page: Path) -> None:
        targets = re.findall(r"\]\(([^)#]+)", page.read_text())
        missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
        assert missing == []

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_lead_to_headings_that_exist(self, page: Path) -> None:
        missing = []
        for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text()):
            headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
            if anchor not in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]:
                missing.append(f"{target}#{anchor}")
        assert missing == []


class TestSettingsNamedInTheDocs:
    def test_all_exist(self) -> None:
        known = {variable_name(name) for name in Settings.model_fields}
        known |= {f"{name}_FILE" for name in known}
        named = {name for page in PAGES for name in re.findall(r"\bWSP_[A-Z_]+[A-Z]\b", page.read_text())}
        assert named - known - {"WSP_NAME", "WSP_RUN_ID", "WSP_GATE"} == set()
