"""What tests of uploads share: an owner over real directories, that can be restarted."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location
from sandbox_api.core.uploads import Part, Uploads

KIB4 = 4096


class House:
    """The uploads of one daemon after the other, over the same directories."""

    def __init__(
        self, root: Path, threads: FileThreads | None = None, *, keep: bool = True
    ) -> None:
        self.state = root / "state"
        self.work = root / "work"
        self._keep = keep
        for directory in (self.state, self.work):
            directory.mkdir(mode=0o700, exist_ok=True)
        self.threads = threads or FileThreads(None)
        self.own_threads = FileThreads(None)
        self._stack = AsyncExitStack()
        self.uploads = self._uploads(0)

    def _uploads(self, max_age_s: float) -> Uploads:
        return Uploads(
            self.threads,
            self.own_threads,
            self.state if self._keep else None,
            tmpdir=str(self.state),
            max_age_s=max_age_s,
        )

    async def restart(self, max_age_s: float = 0, *, killed: bool = False) -> None:
        """Begin, or begin anew; a daemon that is killed does nothing more."""
        if killed:
            self._stack.pop_all()
        await self._stack.aclose()
        self.uploads = self._uploads(max_age_s)
        await self._stack.enter_async_context(self.uploads.open())

    async def close(self) -> None:
        await self._stack.aclose()
        self.threads.close()
        self.own_threads.close()

    def location(self, name: str = "out.bin") -> Location:
        return Location(name, str(self.work / name))

    async def initiate(self, name: str = "out.bin", mode: int | None = None) -> str:
        return (await self.uploads.initiate(self.location(name), mode)).id

    async def send(self, upload: str, number: int, data: bytes, *, max_bytes: int = -1) -> Part:
        """Upload a part in two pieces, as a form that ends with a line break."""
        most = len(data) + 2 if max_bytes < 0 else max_bytes
        async with await self.uploads.begin_part(upload, number, most) as writer:
            await writer.write(data[: len(data) // 2])
            await writer.write(data[len(data) // 2 :])
            return await writer.commit()

    async def complete(self, upload: str, *parts: Part) -> None:
        await self.uploads.complete(upload, [(part.number, part.etag) for part in parts])

    def content(self, name: str = "out.bin") -> bytes | None:
        try:
            return (self.work / name).read_bytes()
        except FileNotFoundError:
            return None

    def left_over(self) -> list[str]:
        """What lies about beside the files and the locks."""
        names = [path.name for path in self.work.rglob(".sandbox-api-*")]
        sessions = self.state / "sessions"
        return names + (os.listdir(sessions) if sessions.is_dir() else [])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Uploads that have begun."""
    house = House(tmp_path)
    await house.restart()
    yield house
    await house.close()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
