"""Crontabs found in the wild: those that Debian's packages put into /etc/cron.d.

They are somebody else's work, so they are not kept here but fetched, from Debian, once for all tests of a run.
"""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import delete
from tests.cron.conftest import JobStore

from wsp.cron.crontabs import transfer
from wsp.cron.crontabs.reader import is_system, read
from wsp.cron.crontabs.transfer import Import
from wsp.cron.models import CronJob
from wsp.database import Database

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("apt-get") is None and "CI" not in os.environ, reason="packages come from Debian, with apt-get"
    ),
]

PACKAGES = (
    *("amavisd-new", "anacron", "atop", "awstats", "cacti", "certbot", "cron-apt", "dma", "e2fsprogs", "ganeti"),
    *("inn2", "logcheck", "mailman3", "mailman3-web", "mdadm", "munin", "munin-node", "ntpsec", "php-common"),
    *("roundcube-core", "rsnapshot", "sysstat", "tiger"),
)
AT_LEAST = 10
OWNERS = ("ann", "news", "www-data")


@pytest.fixture(scope="session")
def crontabs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The crontabs, by the package and the name of the file."""
    folder = tmp_path_factory.mktemp("packages")
    known = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [name for name in PACKAGES if name in known]  # a release may lack some of them
    subprocess.run(["apt-get", "download", *wanted], cwd=folder, capture_output=True, timeout=100, check=False)
    found = {}
    for package in sorted(folder.glob("*.deb")):
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                inside = Path(member.name)
                if inside.parent == Path("etc/cron.d") and member.isfile() and not inside.name.startswith("."):
                    file = archive.extractfile(member)
                    assert file is not None
                    found[f"{package.name.partition('_')[0]}/{inside.name}"] = file.read().decode()
    if len(found) < AT_LEAST and "CI" not in os.environ:
        pytest.skip("Debian's packages could not be fetched")
    assert len(found) >= AT_LEAST, found.keys()
    return found


@pytest.fixture
def store_of_jobs(jobs: JobStore) -> Database:
    """A database with some of the users that the crontabs name."""
    for name in OWNERS:
        jobs.owner(name)
    return jobs.database


def lines_with_jobs(text: str) -> int:
    """How many lines a simpler reader would call jobs: neither blank, nor a comment, nor a setting."""
    lines = [line.strip() for line in text.splitlines()]
    return sum(bool(line) and not line.startswith("#") and "=" not in line.split()[0] for line in lines)


class TestWildCrontabs:
    def test_are_seen_to_have_users(self, crontabs: Mapping[str, str]) -> None:
        with_jobs = {name: text for name, text in crontabs.items() if list(read(text, system=True))}
        assert len(with_jobs) >= AT_LEAST
        assert [name for name, text in with_jobs.items() if not is_system(text, ())] == []

    def test_come_in_and_go_out_without_a_loss(self, crontabs: Mapping[str, str], store_of_jobs: Database) -> None:
        for name, text in crontabs.items():
            candidates, _ = transfer.from_crontab(text, "system", "ann", OWNERS)
            with store_of_jobs.transaction() as session:
                results = transfer.import_jobs(session, candidates, Import())
            assert [(name, r.status) for r in results] == [(name, "created")] * lines_with_jobs(text), results
            with store_of_jobs.transaction() as session:
                again = transfer.import_jobs(session, candidates, Import())
            assert [r.status for r in again] == ["skipped"] * len(results)
            with store_of_jobs.reading() as session:
                before = list(transfer.jobs_to_export(session, None))
            exported = transfer.as_crontab(before, None, "UTC")
            with store_of_jobs.transaction() as session:
                session.execute(delete(CronJob))
                candidates, kind = transfer.from_crontab(exported, "auto", "ann", OWNERS)
                transfer.import_jobs(session, candidates, Import())
            with store_of_jobs.transaction() as session:
                after = list(transfer.jobs_to_export(session, None))
                session.execute(delete(CronJob))
            assert kind == "system"
            assert [{**job, "id": 0} for job in after] == [{**job, "id": 0} for job in before]
            # What cron ran before, it runs from what is exported: nothing was commented out.
            assert "commented_out" not in exported, name

    @pytest.mark.skipif(shutil.which("crontab") is None and "CI" not in os.environ, reason="no cron on this machine")
    def test_are_still_crontabs_when_they_come_out(self, crontabs: Mapping[str, str], store_of_jobs: Database) -> None:
        for text in crontabs.values():
            candidates, _ = transfer.from_crontab(text, "system", "ann", ())
            with store_of_jobs.transaction() as session:
                transfer.import_jobs(session, candidates, Import())
        with store_of_jobs.reading() as session:
            jobs = list(transfer.jobs_to_export(session, "ann"))
        assert len(jobs) > AT_LEAST
        exported = transfer.as_crontab(jobs, "ann", "UTC")
        subprocess.run(["crontab", "-n", "-"], input=exported.encode(), check=True, capture_output=True)
