"""Multipart sessions: what arrives, what survives, what is refused, and what is left behind."""

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location
from sandbox_api.errors import FailedError, InternalError, InvalidError, NotFoundError
from tests.core.uploads.conftest import KIB4, House, md5

A, B, C = (letter * KIB4 for letter in (b"a", b"b", b"c"))


async def test_g22_parts_in_any_order_become_the_file(house: House) -> None:
    """Parallel parts of one size and a shorter last one; nothing is left but the file."""
    upload = await house.initiate(mode=0o640)
    parts = await asyncio.gather(
        house.send(upload, 3, b"end"), house.send(upload, 1, A), house.send(upload, 2, B)
    )
    assert [part.etag for part in parts] == [md5(b"end"), md5(A), md5(B)]
    assert house.content() is None
    await house.complete(upload, *parts)
    assert house.content() == A + B + b"end"
    assert stat.S_IMODE((house.work / "out.bin").stat().st_mode) == 0o640
    assert house.left_over() == []
    with pytest.raises(NotFoundError, match=f"upload not found: {upload}"):
        house.uploads.get(upload)


async def test_parts_of_one_size_are_not_copied(house: House) -> None:
    """The body becomes the file: it is the same inode, so 10 GB complete in no time."""
    upload = await house.initiate()
    parts = [await house.send(upload, number, A) for number in (1, 2, 3)]
    (body,) = [path for path in house.work.iterdir() if path.name.startswith(".sandbox-api-")]
    inode = body.stat().st_ino
    await house.complete(upload, *parts)
    assert (house.work / "out.bin").stat().st_ino == inode
    assert house.content() == A * 3


@pytest.mark.parametrize(
    "contents",
    [
        [b"odd", b"sizes", b""],
        [b"x" * (KIB4 - 1), A],
        [A, B * 2, C],
        [b""],
        [b"x"],
        [A, b"", C],
    ],
)
@pytest.mark.parametrize("length", ["unknown", "exact", "with a line break"])
async def test_g22_parts_of_any_size(house: House, contents: list[bytes], length: str) -> None:
    """What does not fit the places of the body is put together all the same."""
    upload = await house.initiate()
    extra = {"unknown": None, "exact": 0, "with a line break": 2}[length]
    parts = [
        await house.send(upload, n, data, max_bytes=0 if extra is None else len(data) + extra)
        for n, data in enumerate(contents, 1)
    ]
    await house.complete(upload, *parts)
    assert house.content() == b"".join(contents)
    assert house.left_over() == []


async def test_a_part_larger_than_its_place_moves_out(house: House) -> None:
    """A guess of a part's size that was wrong never reaches into the next part."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    third = await house.send(upload, 3, C)
    second = await house.send(upload, 2, b"b" * (KIB4 + 2), max_bytes=KIB4 + 2)
    await house.complete(upload, first, second, third)
    assert house.content() == A + b"b" * (KIB4 + 2) + C


async def test_g22_a_part_sent_again_replaces_the_first(house: House) -> None:
    """Once, twice and three times; the old bytes are given back."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    for again in (B, C, b"z" * KIB4):
        second = await house.send(upload, 2, again)
    assert [part.number for part in house.uploads.get(upload).sorted_parts()] == [1, 2]
    await house.complete(upload, first, second)
    assert house.content() == A + b"z" * KIB4
    assert house.left_over() == []


async def test_g22_only_listed_parts_count(house: House) -> None:
    """Others are dropped, gaps are closed, order does not matter."""
    upload = await house.initiate()
    parts = {
        number: await house.send(upload, number, bytes([number]) * KIB4) for number in (1, 2, 4)
    }
    await house.complete(upload, parts[4], parts[1])
    assert house.content() == b"\x01" * KIB4 + b"\x04" * KIB4
    assert house.left_over() == []


async def test_g22_a_failed_complete_changes_nothing(house: House) -> None:
    """Not the file, not the session: it can be completed afterwards."""
    (house.work / "out.bin").write_bytes(b"old")
    upload = await house.initiate()
    first, second = await house.send(upload, 1, A), await house.send(upload, 2, B)
    for wanted, kind, text in (
        ([(1, first.etag), (5, "x")], InternalError, "failed to complete upload: part 5 not found"),
        (
            [(1, first.etag.upper())],
            InternalError,
            "failed to complete upload: etag mismatch for part 1",
        ),
        ([(1, first.etag), (1, first.etag)], InvalidError, "part 1 is listed twice"),
        ([], InvalidError, "at least one part is required"),
    ):
        with pytest.raises(kind, match=text):
            await house.uploads.complete(upload, wanted)
        assert house.content() == b"old"
    await house.complete(upload, first, second)
    assert house.content() == A + B


async def test_a_destination_that_cannot_be_written(house: House) -> None:
    """A directory, a file in the way: a 4xx that says so, and the session stays usable."""
    (house.work / "d").mkdir()
    (house.work / "f").touch()
    for name, text in (
        ("d", "failed to create final file: open {}/d: is a directory"),
        ("f/g", "failed to create parent directory: mkdir {}/f: not a directory"),
    ):
        upload = await house.initiate(name)
        parts = [await house.send(upload, 1, A), await house.send(upload, 2, b"x")]
        with pytest.raises(FailedError) as failure:
            await house.complete(upload, *parts)
        assert failure.value.message == f"failed to complete upload: {text.format(house.work)}"
    (house.work / "f").unlink()
    await house.complete(upload, *parts)
    assert house.content("f/g") == A + b"x"


async def test_g20_what_exists_keeps_its_mode_and_links(house: House) -> None:
    """A link is followed; a hard link sees the new content; modes stay."""
    target, hard = house.work / "target", house.work / "hard"
    target.write_bytes(b"old")
    target.chmod(0o600)
    os.link(target, hard)
    (house.work / "link").symlink_to("target")
    upload = await house.initiate("link", mode=0o777)
    await house.complete(upload, await house.send(upload, 1, A), await house.send(upload, 2, B))
    assert (house.work / "link").is_symlink()
    assert hard.read_bytes() == target.read_bytes() == A + B
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert house.left_over() == []


async def test_parents_are_made_on_success_only(house: House) -> None:
    """Parts lie in the nearest directory that exists, and move from there."""
    upload = await house.initiate("x/y/out.bin")
    part = await house.send(upload, 1, A)
    assert not (house.work / "x").exists()
    await house.complete(upload, part)
    assert house.content("x/y/out.bin") == A


async def test_unknown_sessions_and_numbers(house: House) -> None:
    """The texts that the reference's tests pin; the session is looked at first."""
    upload = await house.initiate()
    for session, number, text in (
        ("nope", 0, "failed to upload part: upload not found: nope"),
        (upload, 0, "failed to upload part: part number must be between 1 and 10000"),
        (upload, 10001, "failed to upload part: part number must be between 1 and 10000"),
    ):
        with pytest.raises(InternalError) as failure:
            await house.uploads.begin_part(session, number)
        assert failure.value.message == text
    assert (await house.send(upload, 10000, b"x")).number == 10000
    with pytest.raises(FailedError, match="reserved"):
        await house.initiate(".sandbox-api-x")


async def test_g22_a_part_that_is_cut_is_forgotten(house: House) -> None:
    """Its place is free again, its bytes are given back, an older one of its number stays."""
    upload = await house.initiate()
    first = await house.send(upload, 1, A)
    for number in (1, 2):
        async with await house.uploads.begin_part(upload, number, KIB4 + 2) as writer:
            await writer.write(b"half")
    second = await house.send(upload, 2, B)
    assert second.place.shared
    assert house.uploads.get(upload).parts[1] == first
    await house.complete(upload, first, second)
    assert house.content() == A + B


async def test_g22_two_uploads_of_one_number_do_not_mix(house: House) -> None:
    """Each has a file of its own; the last one to end counts."""
    upload = await house.initiate()
    begin = house.uploads.begin_part
    async with await begin(upload, 1, KIB4 + 2) as one, await begin(upload, 1, KIB4 + 2) as two:
        await one.write(A[:100])
        await two.write(B)
        await one.write(A[100:])
        first, second = await two.commit(), await one.commit()
    assert (first.etag, second.etag) == (md5(B), md5(A))
    await house.complete(upload, second)
    assert house.content() == A
    assert house.left_over() == []


async def test_g22_complete_while_a_part_is_on_its_way(house: House) -> None:
    """What still arrives for the old session never reaches the file."""
    upload = await house.initiate()
    parts = [await house.send(upload, 1, A), await house.send(upload, 2, B)]
    late = await house.uploads.begin_part(upload, 3, KIB4 + 2)
    again = await house.uploads.begin_part(upload, 2, KIB4 + 2)
    async with late, again:
        await late.write(C)
        await again.write(C[:10])
        await house.complete(upload, *parts)
        with pytest.raises(InternalError, match="upload not found"):
            await late.commit()
        with pytest.raises(InternalError, match="upload not found"):
            await again.write(C[10:])
    assert house.content() == A + B
    assert house.left_over() == []


async def test_g22_a_late_part_never_changes_the_file(house: House) -> None:
    """A writer that holds a place in the body keeps it from becoming the file."""
    upload = await house.initiate()
    await house.send(upload, 1, B)
    part = await house.send(upload, 1, A)
    async with await house.uploads.begin_part(upload, 1, KIB4 + 2) as late:
        await late.write(C)
        await house.complete(upload, part)
    assert house.content() == A
    assert house.left_over() == []


async def test_g22_a_failed_complete_keeps_parts_that_were_not_listed(house: House) -> None:
    """They may be asked for next time."""
    (house.work / "out.bin").mkdir()
    upload = await house.initiate()
    parts = [await house.send(upload, n, data) for n, data in enumerate((A, B, C), 1)]
    with pytest.raises(FailedError, match="is a directory"):
        await house.complete(upload, *parts[:2])
    (house.work / "out.bin").rmdir()
    await house.complete(upload, *parts)
    assert house.content() == A + B + C


async def test_abort_while_a_part_is_on_its_way(house: House) -> None:
    """The part fails, and nothing is left behind."""
    upload = await house.initiate()
    await house.send(upload, 1, A)
    async with await house.uploads.begin_part(upload, 2, KIB4 + 2) as writer:
        await writer.write(B[:10])
        await house.uploads.abort(upload)
        with pytest.raises(InternalError, match=f"upload not found: {upload}"):
            await writer.write(B[10:])
    assert house.left_over() == []
    with pytest.raises(NotFoundError):
        await house.uploads.abort(upload)


async def test_g22_of_two_completes_one_wins(house: House) -> None:
    """The other is told that the session is over."""
    upload = await house.initiate()
    part = await house.send(upload, 1, A)
    results = await asyncio.gather(
        house.complete(upload, part), house.complete(upload, part), return_exceptions=True
    )
    assert [type(result) for result in results if result] == [NotFoundError]
    assert house.content() == A


async def test_a_client_that_leaves_does_not_stop_a_complete(
    house: House, eventually: Callable[..., Awaitable[object]]
) -> None:
    """What has begun ends; a second try finds the session gone and the file there."""
    upload = await house.initiate()
    part = await house.send(upload, 1, A)
    completing = asyncio.create_task(house.complete(upload, part))
    await asyncio.sleep(0)
    completing.cancel()
    await eventually(lambda: house.content() == A and house.left_over() == [])


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


async def test_g29_parts_belong_to_the_workload_user(
    tmp_path: Path, nobody_threads: FileThreads
) -> None:
    """Parts and file are written with its rights; where it may not write, the upload fails."""
    house = House(tmp_path, nobody_threads)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o711)
    house.work.chmod(0o777)
    await house.restart()
    upload = await house.initiate()
    part = await house.send(upload, 1, A)
    owners = {path.name[:12]: path.stat().st_uid for path in house.work.iterdir()}
    assert owners == {".sandbox-api": 65534}
    await house.complete(upload, part)
    assert (house.work / "out.bin").stat().st_uid == 65534

    house.work.chmod(0o755)
    (house.work / "theirs").write_bytes(b"old")
    (house.work / "own").write_bytes(b"old")
    os.chown(house.work / "own", 65534, 65534)
    for name, expected in (("theirs", b"old"), ("new", None), ("own", A + B)):
        upload = await house.initiate(name)
        parts = [await house.send(upload, 1, A), await house.send(upload, 2, B)]
        assert all(part.place.private for part in parts)
        if expected == A + B:  # its own file in a directory that it cannot write: in place
            await house.complete(upload, *parts)
        else:
            with pytest.raises(FailedError, match="permission denied"):
                await house.complete(upload, *parts)
            await house.uploads.abort(upload)
        assert house.content(name) == expected
    assert house.left_over() == []
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
