"""What survives of multipart sessions: restarts, shortages, deletions; and what expires."""

import os
import resource
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.paths import Location
from sandbox_api.errors import (
    FailedError,
    InternalError,
    UnavailableError,
)
from tests.core.uploads.conftest import KIB4, House

A, B, C = (letter * KIB4 for letter in (b"a", b"b", b"c"))


@pytest.mark.parametrize("killed", [False, True])
async def test_g22_sessions_survive_a_restart(house: House, killed: bool) -> None:
    """Also a kill in the middle of a part, of which nothing stays."""
    upload = await house.initiate(mode=0o751)
    first = await house.send(upload, 1, A)
    odd = await house.send(upload, 2, b"odd")
    odd = await house.send(upload, 2, b"odder")
    writer = await house.uploads.begin_part(upload, 3, KIB4 + 2)
    extra = await house.uploads.begin_part(upload, 1, KIB4 + 2)
    await writer.write(b"half")
    await extra.write(b"half")
    for one in (writer, extra):  # who is killed writes nothing later; here its threads live on
        await one.written()
    if not killed:
        await writer.end()
        await extra.end()
    await house.restart(killed=killed)
    (session,) = house.uploads.sessions()
    assert (session.id, session.mode, session.path) == (upload, 0o751, str(house.work / "out.bin"))
    assert session.sorted_parts() == [first, odd]
    third = await house.send(upload, 3, C)
    assert len([name for name in house.left_over() if name.startswith(".")]) <= 3
    await house.complete(upload, first, odd, third)
    assert house.content() == A + b"odder" + C
    assert stat.S_IMODE((house.work / "out.bin").stat().st_mode) == 0o751
    assert house.left_over() == []
    await writer.end()
    await extra.end()


async def test_metadata_is_private(house: House) -> None:
    """Nobody else learns who uploads what, or reads a part."""
    upload = await house.initiate()
    await house.send(upload, 1, A)
    for path in [*house.state.rglob("*"), *house.work.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_metadata_that_is_broken_is_skipped(house: House) -> None:
    """One session that cannot be read costs none of the others."""
    good, bad = await house.initiate("good"), await house.initiate("bad")
    await house.send(bad, 1, A)
    for content in (b"", b"[]", b'{"path":"/x"}', b"\xff"):
        (house.state / "sessions" / bad / "session").write_bytes(content)
        await house.restart()
        assert [session.id for session in house.uploads.sessions()] == [good]
    os.utime(house.state / "sessions" / bad, (1, 1))
    await house.restart(max_age_s=1000)
    assert os.listdir(house.state / "sessions") == [good]


async def test_g22_abandoned_sessions_expire(
    house: House, eventually: Callable[..., Awaitable[object]]
) -> None:
    """With all their files, also those of an earlier daemon; what is in use stays."""
    upload = await house.initiate()
    await house.send(upload, 1, A)
    await house.send(upload, 2, b"odd")
    await house.restart(max_age_s=0.05)
    await eventually(lambda: house.left_over() == [])
    used = await house.initiate()
    async with await house.uploads.begin_part(used, 1) as writer:
        await writer.write(A)
        await eventually(lambda: house.uploads.get(used).last_used_ns < _ago(0.1))
        await house.uploads.expire()
        assert house.uploads.get(used).id == used
        await writer.commit()


def _ago(seconds: float) -> int:
    return time.time_ns() - int(seconds * 1e9)


async def test_parts_that_somebody_deleted(house: House) -> None:
    """The session says which parts are gone, and takes them again."""
    (house.work / "d").mkdir()
    upload = await house.initiate("d/out.bin")
    parts = [await house.send(upload, 1, A), await house.send(upload, 2, b"odd")]
    parts.append(await house.send(upload, 2, b"odder"))
    for path in (house.work / "d").iterdir():
        path.unlink()
    (house.work / "d").rmdir()
    with pytest.raises(FailedError, match="the bytes of part 1, 2 were deleted"):
        await house.complete(upload, parts[0], parts[2])
    assert house.uploads.get(upload).parts == {}
    first = await house.send(upload, 1, A)
    second = await house.send(upload, 2, B)
    await house.complete(upload, first, second)
    assert house.content("d/out.bin") == A + B


async def test_a_deleted_body_is_never_read_as_zeros(house: House) -> None:
    """A part that comes after the deletion must not make the others look present."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    for path in house.work.iterdir():
        path.unlink()
    second = await house.send(upload, 2, B)
    with pytest.raises(InternalError, match="part 1 not found"):
        await house.complete(upload, first, second)
    await house.complete(upload, await house.send(upload, 1, C), second)
    assert house.content() == C + B


async def test_without_a_state_directory(tmp_path: Path) -> None:
    """Sessions live in memory; all else is the same."""
    house = House(tmp_path, keep=False)
    await house.restart()
    upload = await house.initiate()
    await house.complete(upload, await house.send(upload, 2, B), await house.send(upload, 1, A))
    assert house.content() == A + B
    await house.close()


async def test_g28_a_full_disk_fails_the_part_only(tmp_path: Path, small_disk: Path) -> None:
    """Its space is given back, so smaller parts fit; the session and its parts stay."""
    house = House(tmp_path)
    await house.restart()
    session = await house.uploads.initiate(Location("x", str(small_disk / "out")))
    first_content = b"a" * (512 << 10)
    first = await house.send(session.id, 1, first_content)
    for number in (1, 2, 3):
        async with await house.uploads.begin_part(session.id, number, 4 << 20) as writer:
            await writer.write(bytes(2 << 20))
            with pytest.raises(FailedError, match="no space left on device"):
                await writer.commit()
    second = await house.send(session.id, 2, bytes(400 << 10))
    await house.complete(session.id, first, second)
    assert (small_disk / "out").read_bytes() == first_content + bytes(400 << 10)
    assert os.listdir(small_disk) == ["out"]
    await house.close()


async def test_g28_metadata_that_cannot_be_written(house: House) -> None:
    """A part that would not survive a restart is refused, and the older one stays."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    own = house.state / "sessions" / upload
    (own / "1.new").mkdir()
    with pytest.raises(FailedError, match="failed to save metadata"):
        await house.send(upload, 1, B)
    (own / "1.new").rmdir()
    await house.complete(upload, first)
    assert house.content() == A
    assert house.left_over() == []


async def test_g28_no_more_descriptors(house: House) -> None:
    """Every step says so, and works again when there are some."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for attempt in (house.initiate(), house.send(upload, 2, B), house.complete(upload, first)):
            with pytest.raises(UnavailableError, match="too many open files"):
                await attempt
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [session.id for session in house.uploads.sessions()] == [upload]
    await house.complete(upload, first, await house.send(upload, 2, B))
    assert house.content() == A + B
    assert house.left_over() == []


async def test_a_disk_without_room_for_a_session(house: House) -> None:
    """What cannot be kept is not there either."""
    (house.state / "sessions").write_text("in the way")
    with pytest.raises(FailedError, match="file exists"):
        await house.initiate()
    assert house.uploads.sessions() == []


async def test_names_that_are_not_utf8(house: House) -> None:
    """They survive a restart as they are."""
    name = os.fsdecode(b"\xff\n\"'" + b"n" * 251)
    upload = await house.initiate(name)
    part = await house.send(upload, 1, A)
    await house.restart()
    await house.complete(upload, part)
    assert os.listdir(house.work) == [name]
