"""Writes are whole or did not happen (G20), and lose nothing of what was there."""

import errno
import os
import resource
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox_api.core.atomic import AtomicFile, make_directories, write_file
from sandbox_api.errors import FailedError, UnavailableError
from tests.core.conftest import NOBODY, mount

OLD = b"old content"
NEW = b"new"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file with content, of a mode that no default gives."""
    path = tmp_path / "target"
    path.write_bytes(OLD)
    path.chmod(0o640)
    return path


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No test leaves a temporary file, whatever happens in it."""
    yield
    assert not list(tmp_path.rglob(".sandbox-api-*"))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_g20_uncommitted_write_changes_nothing(target: Path) -> None:
    """A write that was given up leaves the old content and no other file."""
    file = AtomicFile(str(target))
    file.write(NEW)
    assert target.read_bytes() == OLD
    file.discard()
    file.discard()
    assert target.read_bytes() == OLD
    with pytest.raises(FailedError, match="given up"):
        file.write(NEW)


def test_g20_reader_never_sees_a_torn_file(target: Path) -> None:
    """While a file is rewritten again and again, every read gives one whole version."""
    versions = [bytes([value]) * 100_000 for value in range(2)]
    write_file(str(target), versions[0])
    stop = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            if (content := target.read_bytes()) not in versions:
                torn.append(content)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        write_file(str(target), versions[number % 2])
    stop.set()
    reader.join()
    assert not torn


def test_g20_replaced_file_keeps_mode_owner_and_attributes(target: Path) -> None:
    """Only the content is new."""
    os.setxattr(target, "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(target, 12345, 54321)
    before = target.stat()
    write_file(str(target), NEW, mode=0o600)
    after = target.stat()
    assert target.read_bytes() == NEW
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert os.getxattr(target, "user.note") == b"kept"


def test_g20_new_file_has_exactly_its_mode(tmp_path: Path) -> None:
    """The umask trims nothing, and special bits are set."""
    previous = os.umask(0o077)
    try:
        write_file(str(tmp_path / "a" / "b"), NEW, mode=0o4777)
    finally:
        os.umask(previous)
    assert mode_of(tmp_path / "a" / "b") == 0o4777
    assert mode_of(tmp_path / "a") == 0o755


def test_change_mode_of_an_existing_file(target: Path) -> None:
    """A mode that was asked for wins over the old one."""
    write_file(str(target), NEW, change_mode=0o600)
    assert mode_of(target) == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_symlink_target_is_written(tmp_path: Path, exists: bool) -> None:
    """A link stays a link; a dangling one's target is created."""
    target = tmp_path / "real"
    if exists:
        target.write_bytes(OLD)
    link = tmp_path / "link"
    link.symlink_to("real")
    write_file(str(link), NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW


def test_hard_links_stay_together(target: Path) -> None:
    """Both names have the new content: a rename would part them."""
    other = target.with_name("other")
    other.hardlink_to(target)
    write_file(str(target), NEW, change_mode=0o600)
    assert other.read_bytes() == NEW
    assert other.samefile(target)
    assert mode_of(target) == 0o600


def test_bind_mounted_file_is_written_in_place(tmp_path: Path, target: Path) -> None:
    """Such as /etc/hosts of a container, over which nothing can be renamed."""
    mounted = tmp_path / "hosts"
    mounted.write_bytes(b"")
    mount(["--bind", str(target), str(mounted)])
    try:
        write_file(str(mounted), NEW)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert target.read_bytes() == NEW


def test_running_program_can_be_replaced(tmp_path: Path) -> None:
    """The kernel lets nobody write a program that runs (ETXTBSY), but a rename works."""
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as running:
        write_file(str(program), NEW)
        running.kill()
    assert program.read_bytes() == NEW


def test_unwritable_directory_is_written_in_place(
    tmp_path: Path, target: Path, as_nobody: Callable[..., object]
) -> None:
    """A file that may be written is written, though nothing can be made beside it."""
    _let_in(tmp_path)
    target.chmod(0o666)
    as_nobody(write_file, str(target), NEW)
    assert target.read_bytes() == NEW
    assert target.stat().st_uid == os.geteuid()


def test_other_owner_stays(tmp_path: Path, target: Path, as_nobody: Callable[..., object]) -> None:
    """Another's file stays another's: a user who cannot give it away writes in place."""
    _let_in(tmp_path)
    tmp_path.chmod(0o777)
    target.chmod(0o666)
    inode = target.stat().st_ino
    as_nobody(write_file, str(target), NEW)
    assert target.read_bytes() == NEW
    assert (target.stat().st_uid, target.stat().st_ino) == (os.geteuid(), inode)


def test_read_only_file_is_not_replaced(tmp_path: Path, as_nobody: Callable[..., object]) -> None:
    """A rename needs no right to write the file, but a write does."""
    _let_in(tmp_path)
    tmp_path.chmod(0o777)
    target = tmp_path / "mine"
    target.write_bytes(OLD)
    os.chown(target, NOBODY.uid, NOBODY.gid)
    target.chmod(0o444)
    with pytest.raises(FailedError, match=f"^open {target}: permission denied$"):
        as_nobody(write_file, str(target), NEW)
    assert target.read_bytes() == OLD


def test_a_file_that_vanishes_while_it_is_written_is_a_new_one(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes it between two looks: that is no error of the writer."""

    def vanish(*_: object, **__: object) -> bool:
        target.unlink()
        return False

    monkeypatch.setattr(os, "access", vanish)
    write_file(str(target), NEW, mode=0o600)
    assert (target.read_bytes(), mode_of(target)) == (NEW, 0o600)


def _let_in(path: Path) -> None:
    """Let other users pass through the directories of pytest."""
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(0o711)


def test_g28_full_disk_keeps_the_old_content(small_disk: Path) -> None:
    """The error names the reason, nothing half-written is left, and the next write works."""
    target = small_disk / "target"
    target.write_bytes(OLD)
    with pytest.raises(FailedError, match=f"^write {target}: no space left on device$"):
        write_file(str(target), bytes(2 << 20))
    assert os.listdir(small_disk) == ["target"]
    assert target.read_bytes() == OLD
    write_file(str(target), NEW)
    assert target.read_bytes() == NEW


def test_g28_no_descriptors_is_not_the_clients_fault(target: Path) -> None:
    """It passes by itself, so clients are told to try again; then they succeed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(UnavailableError, match="too many open files"):
            write_file(str(target), NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert target.read_bytes() == OLD
    write_file(str(target), NEW)
    assert target.read_bytes() == NEW


def test_device_is_written_never_replaced() -> None:
    """A device stays one, and refuses in its own way."""
    write_file("/dev/null", NEW)
    with pytest.raises(FailedError, match=r"^write /dev/full: no space left on device$"):
        write_file("/dev/full", NEW)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_proc_file_is_written_in_place() -> None:
    """/proc takes no temporary file."""
    path = f"/proc/self/task/{threading.get_native_id()}/comm"
    before = Path(path).read_bytes()
    write_file(path, b"renamed")
    assert Path(path).read_bytes() == b"renamed\n"
    write_file(path, before)


def test_sys_file_is_written_in_place() -> None:
    """/sys takes none either; the same value again changes nothing."""
    path = Path("/sys/kernel/mm/ksm/sleep_millisecs")
    if not os.access(path, os.W_OK):
        pytest.skip(f"{path} cannot be written here")
    before = path.read_bytes()
    write_file(str(path), before)
    assert path.read_bytes() == before
    with pytest.raises(FailedError, match=f"^write {path}: invalid argument$"):
        write_file(str(path), b"no number")


@pytest.mark.timeout(10)
def test_fifo_and_socket_are_refused(tmp_path: Path) -> None:
    """They are neither replaced nor waited for."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("fifo", "socket"):
            with pytest.raises(FailedError, match=f"^open {tmp_path / name}: is a fifo or a so"):
                write_file(str(tmp_path / name), NEW)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{d}", "open {d}: is a directory"),
        ("{d}/target/x", "mkdir {d}/target: not a directory"),
        ("{d}/target/x/y", "mkdir {d}/target: not a directory"),
        ("{d}/" + "n" * 256, "open {d}/" + "n" * 256 + ": file name too long"),
        ("{d}/" + "n" * 256 + "/x", "open {d}/" + "n" * 256 + "/x: file name too long"),
        ("{d}/loop", "open {d}/loop: too many levels of symbolic links"),
    ],
)
def test_refusals(tmp_path: Path, target: Path, path: str, message: str) -> None:
    """Each names the operation, the path and the kernel's reason, and changes nothing."""
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FailedError) as caught:
        write_file(path.format(d=tmp_path), NEW)
    assert caught.value.message == message.format(d=tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    assert target.read_bytes() == OLD


def test_sync_writes_the_same(target: Path) -> None:
    """Waiting for the disk changes nothing else, beside the target and in place."""
    write_file(str(target), NEW, sync=True)
    assert target.read_bytes() == NEW
    target.with_name("other").hardlink_to(target)
    write_file(str(target), OLD, sync=True)
    assert target.read_bytes() == OLD


def test_inherited_access_list_is_not_kept(target: Path) -> None:
    """A file without an access list does not get its directory's by being rewritten."""
    entry = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + b"\xff\xff\xff\xff"
        for tag, bits in ((0x01, 7), (0x04, 7), (0x20, 7))
    )
    try:
        os.setxattr(target.parent, "system.posix_acl_default", entry)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system has no access lists")
    before = (mode_of(target), os.listxattr(target))
    write_file(str(target), NEW)
    assert (mode_of(target), os.listxattr(target)) == before


def test_make_directories(tmp_path: Path) -> None:
    """Every new level has exactly the mode; what exists keeps its own."""
    make_directories(str(tmp_path / "a" / "b"), 0o1777)
    make_directories(str(tmp_path / "a" / "b" / "c"), 0o700)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o1777, 0o1777, 0o700]
    make_directories(str(tmp_path / "a"), 0o700)
    assert mode_of(tmp_path / "a") == 0o1777


def test_make_directories_keeps_an_inherited_group_bit(tmp_path: Path) -> None:
    """Directories below a shared one stay shared."""
    tmp_path.chmod(0o2755)
    make_directories(str(tmp_path / "a"), 0o700)
    assert mode_of(tmp_path / "a") == 0o2700


def test_make_directories_refuses_a_file_in_the_way(target: Path) -> None:
    """The level that is no directory is named."""
    with pytest.raises(FailedError, match=f"^mkdir {target}: not a directory$"):
        make_directories(str(target), 0o755)
    with pytest.raises(FailedError, match=f"^mkdir {target}: not a directory$"):
        make_directories(str(target / "x"), 0o755)
