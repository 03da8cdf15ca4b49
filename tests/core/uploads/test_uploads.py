"""Multipart sessions: what arrives, what survives, what is refused, and what is left behind."""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.errors import (
    FailedError,
    ForbiddenError,
    InternalError,
    InvalidError,
    NotFoundError,
)
from tests.core.conftest import let_others_in
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


async def test_g29_parts_belong_to_the_workload_user(
    tmp_path: Path, nobody_threads: FileThreads
) -> None:
    """Parts and file are written with its rights; where it may not write, the upload fails."""
    house = House(tmp_path, nobody_threads)
    let_others_in(tmp_path)
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
            with pytest.raises(ForbiddenError, match="permission denied"):
                await house.complete(upload, *parts)
            await house.uploads.abort(upload)
        assert house.content(name) == expected
    assert house.left_over() == []
    await house.close()
