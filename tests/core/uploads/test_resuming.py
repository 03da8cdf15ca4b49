"""Uploads that resume: progress, what goes on where, what survives, what expires."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.conditions import Condition
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location
from sandbox_api.core.uploads import Resuming, Span
from sandbox_api.errors import ConflictError, FailedError, PreconditionError
from tests.core.conftest import let_others_in

DATA = b"0123456789"


class Desk:
    """Uploads to one file; `work` holds the file and nothing else when all is done."""

    def __init__(self, root: Path, *, keep: bool = True, max_age_s: float = 0) -> None:
        self.work, self.state = root / "work", root / "state"
        self.work.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.threads = FileThreads(None)
        self.resuming = Resuming(
            self.threads, self.threads, self.state if keep else None, max_age_s=max_age_s
        )
        self.location = Location("f", str(self.work / "f"))

    async def send(self, start: int, stop: int, *, total: int = len(DATA)) -> bool:
        """Send some bytes; whether the file was complete then."""
        async with await self.resuming.begin(self.location, Span(start, stop, total)) as writer:
            await writer.write(DATA[start:stop])
            await writer.written()
            if stop == total:
                await writer.commit()
        return stop == total

    async def received(self) -> int:
        return await self.resuming.received(self.location, len(DATA))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    async with desk.resuming.open():
        yield desk
    desk.threads.close()


async def test_g20_the_file_changes_when_the_last_byte_has_come(desk: Desk) -> None:
    """Until then it has its old content; afterwards nothing else is left, and it keeps its mode."""
    (desk.work / "f").write_bytes(b"old")
    (desk.work / "f").chmod(0o600)
    for start, stop in ((0, 4), (4, 4), (4, 9)):
        assert not await desk.send(start, stop)
        assert (desk.work / "f").read_bytes() == b"old"
        assert await desk.received() == stop
    assert await desk.send(9, 10)
    assert (desk.work / "f").read_bytes() == DATA
    assert stat.S_IMODE((desk.work / "f").stat().st_mode) == 0o600
    assert os.listdir(desk.work) == ["f"]
    assert list((desk.state / "partials").iterdir()) == []
    assert await desk.received() == 0


async def test_a_restart_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    """The partial file is all there is to know."""
    await desk.send(0, 4)
    await Desk(tmp_path).send(4, 10)
    assert (desk.work / "f").read_bytes() == DATA


async def test_the_wrong_place_is_a_conflict(desk: Desk) -> None:
    """Which says where the upload goes on; a different size is a different upload."""
    await desk.send(0, 4)
    for start, total, offset in ((5, 10, 4), (3, 10, 4), (4, 11, 0)):
        with pytest.raises(ConflictError, match=f"goes on at byte {offset}") as conflict:
            await desk.send(start, total, total=total)
        assert conflict.value.fields == {"offset": offset, "total": total}
    assert await desk.send(4, 10)


async def test_zero_begins_anew(desk: Desk) -> None:
    """Whatever had come before is forgotten."""
    await desk.send(0, 7)
    await desk.send(0, 2)
    assert await desk.received() == 2
    await desk.send(2, 10)
    assert (desk.work / "f").read_bytes() == DATA


async def test_an_empty_file(desk: Desk) -> None:
    """Nothing to send is complete at once."""
    assert await desk.send(0, 0, total=0)
    assert (desk.work / "f").read_bytes() == b""


async def test_a_newer_request_goes_on_where_a_stalled_one_stands(desk: Desk) -> None:
    """A connection that broke off unnoticed cannot hold up the upload, nor write into it later."""
    begin = desk.resuming.begin
    async with await begin(desk.location, Span(0, 10, 10)) as stalled:
        await stalled.write(DATA[:4])
        await stalled.written()
        assert await desk.received() == 4
        async with await begin(desk.location, Span(4, 10, 10)) as newer:
            await newer.write(DATA[4:6])
            await stalled.write(b"xxxx")
            with pytest.raises(FailedError, match="the write was given up"):
                await stalled.commit()
            await newer.write(DATA[6:])
            await newer.commit()
    assert (desk.work / "f").read_bytes() == DATA
    assert os.listdir(desk.work) == ["f"]


async def test_many_requests_at_once(desk: Desk) -> None:
    """One of them wins, whole."""
    results = await asyncio.gather(*(desk.send(0, 10) for _ in range(20)), return_exceptions=True)
    assert True in results
    assert (desk.work / "f").read_bytes() == DATA
    assert os.listdir(desk.work) == ["f"]


async def test_what_cannot_be_written_is_refused_at_once(desk: Desk) -> None:
    """A directory, a device, a reserved name, a condition: before any byte, without a trace."""
    (desk.work / "d").mkdir()
    for path, text in (
        (str(desk.work / "d"), "is a directory"),
        ("/dev/null", "no regular file"),
        (str(desk.work / ".sandbox-api-x"), "reserved"),
    ):
        with pytest.raises(FailedError, match=text):
            await desk.resuming.begin(Location("x", path), Span(0, 1, 2))
    with pytest.raises(PreconditionError, match="no such file"):
        await desk.resuming.begin(
            desk.location, Span(0, 1, 2), condition=Condition(match=frozenset({"*"}))
        )
    assert os.listdir(desk.work) == ["d"]
    assert not [name for name in os.listdir("/dev") if name.startswith(".sandbox-api-")]


async def test_the_condition_is_looked_at_again_at_the_end(desk: Desk) -> None:
    """Someone else's file that came meanwhile is not overwritten."""
    none = Condition(none_match=frozenset({"*"}))
    async with await desk.resuming.begin(desk.location, Span(0, 10, 10), condition=none) as writer:
        await writer.write(DATA)
        (desk.work / "f").write_bytes(b"theirs")
        with pytest.raises(PreconditionError):
            await writer.commit()
    assert (desk.work / "f").read_bytes() == b"theirs"


@pytest.mark.parametrize("keep", [True, False])
async def test_abandoned_uploads_expire(
    tmp_path: Path, eventually: Callable[..., Awaitable[object]], keep: bool
) -> None:
    """Also those of an earlier daemon; what is on its way stays."""
    desk = Desk(tmp_path, keep=keep)
    await desk.send(0, 4)
    if keep:
        desk = Desk(tmp_path, max_age_s=0.05)
    else:
        desk.resuming._max_age_s = 0.05
    async with desk.resuming.open():
        await eventually(lambda: os.listdir(desk.work) == [])
        async with await desk.resuming.begin(desk.location, Span(0, 4, 10)) as writer:
            await writer.write(DATA[:4])
            await writer.written()
            (partial,) = desk.work.iterdir()
            os.utime(partial, (1, 1))
            await desk.resuming.expire()
            assert partial.exists()
        await eventually(lambda: os.listdir(desk.work) == [])
    desk.threads.close()


async def test_a_partial_file_that_was_replaced_is_not_used(desk: Desk) -> None:
    """Whoever puts a file of the same name there does not get it moved."""
    async with await desk.resuming.begin(desk.location, Span(0, 10, 10)) as writer:
        await writer.write(DATA)
        await writer.written()
        (partial,) = desk.work.iterdir()
        partial.unlink()
        partial.write_bytes(b"other")
        with pytest.raises(FailedError, match="deleted or replaced"):
            await writer.commit()
    assert not (desk.work / "f").exists()


async def test_a_directory_that_takes_no_file(tmp_path: Path, nobody_threads: FileThreads) -> None:
    """One request can write the file in place, several cannot; the text says so."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o666)
    let_others_in(tmp_path)
    resuming = Resuming(nobody_threads, nobody_threads, None)
    for name, text in (("f", "permission denied: .* send this file in one request"), ("new", "d$")):
        location = Location(name, str(tmp_path / name))
        with pytest.raises(FailedError, match=f"^open {location.absolute}: .*{text}"):
            await resuming.begin(location, Span(0, 1, 2))
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
