"""Libraries of Python: ftplib and aioftp."""

import asyncio
import contextlib
import ftplib
import gc
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aioftp
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])]


class TestFtplib:
    def test_a_tree_up_and_down(
        self, server: Any, connect: Any, tree: Path, tmp_path: Path, compare: Any, keeps_times: Any, tls: bool
    ) -> None:
        account = server.account()
        client = connect(server, account, tls=tls)
        client.mkd("site")
        for path in sorted(tree.rglob("*")):
            name = f"/site/{path.relative_to(tree)}"
            if path.is_dir():
                client.mkd(name)
                continue
            with path.open("rb") as file:
                client.storbinary(f"STOR {name}", file)
            client.sendcmd(f"MFMT 20000102030405 {name}")
        compare(tree, account.home / "site")
        keeps_times(tree, account.home / "site")
        self.fetch(client, "/site", tmp_path / "back")
        compare(tree, tmp_path / "back")

    def fetch(self, client: ftplib.FTP, remote: str, local: Path) -> None:
        local.mkdir()
        for name, facts in list(client.mlsd(remote)):
            if facts["type"] == "dir":
                self.fetch(client, f"{remote}/{name}", local / name)
                continue
            assert facts["modify"] == "20000102030405"
            with (local / name).open("wb") as file:
                client.retrbinary(f"RETR {remote}/{name}", file.write)


class TestAioftp:
    @pytest.fixture
    def session(self, server: Any, tls: bool) -> Iterator[Callable[..., Any]]:
        """A logged-in client, to be used with `async with`."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        @contextlib.asynccontextmanager
        async def session(account: Any) -> AsyncIterator[aioftp.Client]:
            client = aioftp.Client()
            await client.connect("127.0.0.1", server.port)
            if tls:
                await client.upgrade_to_tls(context)
            await client.login(account.username, account.password)
            yield client
            await client.quit()

        yield session
        # aioftp lets go of connections without closing them: that is not to be found in the middle of another test.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def test_a_tree_up_and_down(self, server: Any, session: Any, tree: Path, tmp_path: Path, compare: Any) -> None:
        account = server.account()

        async def both_ways() -> None:
            async with session(account) as client:
                await client.upload(tree, "site", write_into=True)
                await client.download("site", tmp_path / "back", write_into=True)

        asyncio.run(both_ways())
        compare(tree, account.home / "site")
        compare(tree, tmp_path / "back")

    def test_the_rest_of_a_file_both_ways(self, server: Any, session: Any, tree: Path, connect: Any) -> None:
        account = server.account()
        connect(server, account)
        whole = (tree / "big.bin").read_bytes()
        (account.home / "big.bin").write_bytes(whole[:1_234_567])

        async def resume() -> bytes:
            async with session(account) as client:
                async with client.upload_stream("big.bin", offset=1_234_567) as stream:
                    await stream.write(whole[1_234_567:])
                async with client.download_stream("big.bin", offset=1_234_567) as stream:
                    return bytes(await stream.read())

        assert asyncio.run(resume()) == whole[1_234_567:]
        assert (account.home / "big.bin").read_bytes() == whole
