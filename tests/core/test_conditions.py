"""Conditions on a file's state, and that only one of many writers wins by them."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox_api.core.atomic import AtomicFile, write_file
from sandbox_api.core.conditions import ANY, UNCONDITIONAL, Condition, file_version
from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.pathlocks import PathLocks
from sandbox_api.core.paths import Location, PathResolver
from sandbox_api.errors import PreconditionError, SandboxError

WRITERS = 16


def holds(condition: Condition, path: Path) -> bool:
    try:
        condition.check(path.stat() if path.exists() else None)
    except PreconditionError:
        return False
    return True


def test_what_holds_when(tmp_path: Path) -> None:
    """RFC 9110 sections 13.1.1 and 13.1.2: `*`, one of several, none of several, both."""
    file, directory, missing = tmp_path / "f", tmp_path, tmp_path / "missing"
    file.touch()
    version = file_version(file.stat())
    current, other = frozenset({version, "x"}), frozenset({"x"})
    every = frozenset({ANY})
    for condition, expected in (
        (UNCONDITIONAL, (True, True, True)),
        (Condition(match=every), (True, True, False)),
        (Condition(match=current), (True, False, False)),
        (Condition(match=other), (False, False, False)),
        (Condition(match=frozenset()), (False, False, False)),
        (Condition(none_match=every), (False, False, True)),
        (Condition(none_match=current), (False, True, True)),
        (Condition(none_match=other), (True, True, True)),
        (Condition(match=current, none_match=other), (True, False, False)),
        (Condition(match=current, none_match=every), (False, False, False)),
    ):
        found = tuple(holds(condition, path) for path in (file, directory, missing))
        assert found == expected, condition


def test_a_version_changes_with_every_write(tmp_path: Path) -> None:
    """Also with one of the same size in the same moment, for it makes a new file."""
    path = tmp_path / "f"
    versions = [file_version(write_file(str(path), b"%04d" % number)) for number in range(100)]
    assert all(one != two for one, two in pairwise(versions))
    assert versions[-1] == file_version(path.stat())


@pytest.mark.parametrize("existing", [True, False])
def test_of_many_conditional_writers_one_wins(tmp_path: Path, existing: bool) -> None:
    """All have seen the same state, so all but one must learn that it has changed."""
    path = tmp_path / "f"
    condition = Condition(none_match=frozenset({ANY}))
    if existing:
        path.write_bytes(b"old")
        condition = Condition(match=frozenset({file_version(path.stat())}))
    barrier = threading.Barrier(WRITERS)

    def write(number: int) -> int | None:
        file = AtomicFile(str(path), condition=condition)
        try:
            file.write(b"%d" % number)
            barrier.wait()
            file.commit()
        except PreconditionError:
            return None
        finally:
            file.discard()
        return number

    with ThreadPoolExecutor(WRITERS) as pool:
        winners = [number for number in pool.map(write, range(WRITERS)) if number is not None]
    assert len(winners) == 1
    assert path.read_bytes() == b"%d" % winners[0]
    assert os.listdir(tmp_path) == ["f"]


async def test_of_a_writer_and_a_deleter_one_wins(tmp_path: Path) -> None:
    """Nobody deletes what he has not seen, or brings back what was deleted."""
    threads = FileThreads(None)
    files = Files(threads, PathResolver(str(tmp_path / "elsewhere"), ""))
    location = Location("f", str(tmp_path / "f"))
    for _ in range(50):
        status = await files.write(location, b"old")
        condition = Condition(match=frozenset({file_version(status)}))
        results = await asyncio.gather(
            files.write(location, b"new", condition=condition),
            files.delete(location, condition=condition),
            return_exceptions=True,
        )
        failures = [result for result in results if isinstance(result, SandboxError)]
        assert len(failures) == 1
        assert (tmp_path / "f").exists() == (failures[0] is results[1])
    threads.close()


def test_nothing_is_made_when_a_condition_fails(tmp_path: Path) -> None:
    """No directory on the way to a file that must exist."""
    with pytest.raises(PreconditionError):
        write_file(str(tmp_path / "a/b"), b"x", condition=Condition(match=frozenset({ANY})))
    assert os.listdir(tmp_path) == []


def test_a_link_has_the_version_of_its_target(tmp_path: Path) -> None:
    """For that is what a reader of the link has seen."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to("f")
    condition = Condition(match=frozenset({file_version((tmp_path / "f").stat())}))
    write_file(str(tmp_path / "link"), b"new", condition=condition)
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_hard_link_is_written_in_place_under_its_condition(tmp_path: Path) -> None:
    """The finished content is compared and copied as one step."""
    (tmp_path / "f").write_bytes(b"old")
    os.link(tmp_path / "f", tmp_path / "g")
    condition = Condition(match=frozenset({file_version((tmp_path / "f").stat())}))
    status = write_file(str(tmp_path / "f"), b"newer", condition=condition)
    assert (tmp_path / "g").read_bytes() == b"newer"
    assert file_version(status) == file_version((tmp_path / "f").stat())
    with pytest.raises(PreconditionError):
        write_file(str(tmp_path / "f"), b"x", condition=condition)


def test_locks_are_forgotten(tmp_path: Path) -> None:
    """However a directory is spelled it is one lock, and none stays."""
    locks = PathLocks()
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    entered = threading.Event()

    def hold() -> None:
        with locks.hold(str(tmp_path / "link/f")):
            entered.set()

    with locks.hold(str(tmp_path / "d/f")), locks.hold(str(tmp_path / "d/g")):
        other = threading.Thread(target=hold)
        other.start()
        assert not entered.wait(0.05)
    other.join(5)
    assert entered.is_set()
    assert locks._entries == {}
