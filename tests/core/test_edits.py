"""Edits of a part of a file."""

import asyncio
from pathlib import Path

import pytest

from sandbox_api.core.edits import MAX_BYTES, Edits
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location
from sandbox_api.errors import FailedError, InvalidError, PreconditionError, TooLargeError


def at(path: Path) -> Location:
    return Location(path.name, str(path))


async def test_bytes_that_are_no_text_stay(tmp_path: Path) -> None:
    """Only what is replaced changes; the file may be anything."""
    file = tmp_path / "f"
    file.write_bytes(b"\xff\x00old\xfe")
    threads = FileThreads(None)
    assert await Edits(threads).replace(at(file), "old", "né") == 1
    assert file.read_bytes() == b"\xff\x00n\xc3\xa9\xfe"
    threads.close()


async def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each sees what the one before has written."""
    file, threads = tmp_path / "f", FileThreads(None)
    file.write_text("".join(f"<{n}>" for n in range(8)))
    edits = Edits(threads)
    await asyncio.gather(*(edits.replace(at(file), f"<{n}>", f"[{n}]") for n in range(8)))
    assert file.read_text() == "".join(f"[{n}]" for n in range(8))
    threads.close()


async def test_an_edit_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    """A short text for a long one, a million times."""
    file, threads = tmp_path / "f", FileThreads(None)
    file.write_text("a" * 1_000_000)
    with pytest.raises(TooLargeError, match="would grow"):
        await Edits(threads).replace(at(file), "a", "b" * 1000, everywhere=True)
    with file.open("wb") as handle:
        handle.truncate(MAX_BYTES + 1)
    with pytest.raises(TooLargeError, match="too large to be edited"):
        await Edits(threads).replace(at(file), "a", "b")
    threads.close()


async def test_a_write_holds_only_for_what_was_read(tmp_path: Path) -> None:
    """For a file that was there, and for one that was not."""
    file, threads = tmp_path / "f", FileThreads(None)
    edits = Edits(threads)
    before = await edits.read(at(file), missing=True)
    file.write_text("someone else's")
    with pytest.raises(PreconditionError):
        await edits.write(at(file), b"mine", before.condition)
    before = await edits.read(at(file))
    await edits.write(at(file), b"mine", before.condition)
    with pytest.raises(PreconditionError):
        await edits.write(at(file), b"mine again", before.condition)
    threads.close()


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A directory has no text, and nothing is empty."""
    threads = FileThreads(None)
    edits = Edits(threads)
    with pytest.raises(FailedError, match="failed to read"):
        await edits.replace(at(tmp_path), "a", "b")
    with pytest.raises(InvalidError, match="non-empty"):
        await edits.replace(at(tmp_path), "", "b")
    threads.close()
