"""Directories as archives, both ways: nothing is lost, nothing leaves the directory."""

import gzip
import io
import os
import posixpath
import stat
import subprocess
import tarfile
import venv
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sandbox_api.core.archives import Archives, Unpacked
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import PathResolver
from sandbox_api.errors import FailedError
from tests.core.archives.test_parsing import info, pack
from tests.core.conftest import MADE_UP, let_others_in

LONG = "n" * 255


class Ends:
    """Archives that are packed and unpacked as wholes, below a working directory."""

    def __init__(self, threads: FileThreads, workdir: Path) -> None:
        self.archives = Archives(threads)
        self.paths = PathResolver(str(workdir), "")

    async def pack(self, path: str, *, compressed: bool = False) -> bytes:
        pieces = self.archives.pack(self.paths.resolve(path), compressed=compressed)
        return b"".join([piece async for piece in pieces])

    async def unpack(
        self, path: str, data: bytes, *, compressed: bool = False, size: int = 1 << 20
    ) -> Unpacked:
        archive = self.archives.unpack(self.paths.resolve(path), compressed=compressed)
        async with archive as receiver:
            for start in range(0, len(data), size):
                await receiver.feed(data[start : start + size])
            return await receiver.finish()


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """Archives as the daemon's own user."""
    threads = FileThreads(None)
    yield Ends(threads, tmp_path)
    threads.close()


def make_tree(root: Path) -> None:
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "script").write_text("#!")
    (root / "script").chmod(0o751)
    (root / "sub" / "link").symlink_to("../script")
    os.link(root / "script", root / "sub" / "z")
    (root / "sub" / os.fsdecode(b'\xff\n"')).write_bytes(bytes(range(256)))
    (root / "sub" / LONG).mkdir(mode=0o750)
    (root / "sub" / LONG / LONG).write_bytes(b"x" * 3_000_001)
    os.utime(root / "script", ns=(0, 981_173_106_000_000_000))


def facts(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (path.read_bytes(), status.st_mtime_ns // 10**9, status.st_nlink)
        found[str(path.relative_to(root))] = (status.st_mode, content)
    return found


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [1 << 20, 1000])
async def test_there_and_back(ends: Ends, tmp_path: Path, *, compressed: bool, size: int) -> None:
    """What was packed here is unpacked here as it was."""
    make_tree(tmp_path / "a")
    data = await ends.pack("a", compressed=compressed)
    assert await ends.unpack("b/", data, compressed=compressed, size=size) == Unpacked(8, 3_000_259)
    assert facts(tmp_path / "b") == facts(tmp_path / "a")
    assert (await ends.unpack("b", data, compressed=compressed)).entries == 8
    assert facts(tmp_path / "b") == facts(tmp_path / "a")


@pytest.mark.parametrize("tool", [["tar"], ["busybox", "tar"]])
async def test_tar_understands_us(ends: Ends, tmp_path: Path, tool: list[str]) -> None:
    """The system's tar, and that of small images, unpack what we pack."""
    make_tree(tmp_path / "a")
    (tmp_path / "b").mkdir()
    run([*tool, "-xf", "-", "-C", str(tmp_path / "b")], await ends.pack("a"))
    assert facts(tmp_path / "b") == facts(tmp_path / "a")


@pytest.mark.parametrize(
    "tool", [["tar", "--format=gnu"], ["tar", "--format=pax"], ["busybox", "tar"]]
)
async def test_we_understand_tar(ends: Ends, tmp_path: Path, tool: list[str]) -> None:
    """What they pack, we unpack, with and without compression."""
    make_tree(tmp_path / "a")
    data = run([*tool, "-cf", "-", "-C", str(tmp_path / "a"), "."])
    await ends.unpack("b/", data)
    assert facts(tmp_path / "b") == facts(tmp_path / "a")
    halves = gzip.compress(data[:10_000]) + gzip.compress(data[10_000:]) + bytes(100)
    await ends.unpack("c/", halves, compressed=True, size=777)
    assert facts(tmp_path / "c") == facts(tmp_path / "a")


def run(command: list[str], data: bytes = b"") -> bytes:
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- packing -----------------------------------------------------------------------------------


async def test_pack_leaves_out_what_is_no_file(ends: Ends, tmp_path: Path) -> None:
    """Fifos and what is ours are not in the archive; nobody waits for a writer."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "fifo")
    (tmp_path / "a" / ".sandbox-api-1").write_text("x")
    (tmp_path / "a" / "f").write_text("F")
    data = await ends.pack("a")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["f"]


@pytest.mark.parametrize(("path", "content"), MADE_UP)
async def test_pack_what_the_kernel_makes_up(ends: Ends, path: str, content: bytes) -> None:
    """It has the content that is read, not the size that is told."""
    directory, name = posixpath.split(path)
    with tarfile.open(fileobj=io.BytesIO(await ends.pack(directory))) as archive:
        file = archive.extractfile(name)
        assert file is not None
        assert file.read() == content


async def test_g29_pack_as_the_workload_user(
    tmp_path: Path, nobody_threads: FileThreads, caplog: pytest.LogCaptureFixture
) -> None:
    """What that user cannot read is left out, and the log says so."""
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "x").touch()
    (tmp_path / "secret").write_text("s")
    os.chmod(tmp_path / "secret", 0o600)
    (tmp_path / "open").write_text("o")
    let_others_in(tmp_path)
    os.chmod(tmp_path, 0o755)
    data = await Ends(nobody_threads, tmp_path).pack(".")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["closed", "open"]
    assert "2 entries are not in the archive" in caplog.text


async def test_pack_that_is_given_up_costs_nothing(ends: Ends, tmp_path: Path) -> None:
    """A client that leaves in the middle leaves no descriptor behind."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(bytes(8 << 20))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        pieces = ends.archives.pack(ends.paths.resolve("a"), compressed=False)
        await anext(pieces)
        await pieces.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


# --- unpacking ---------------------------------------------------------------------------------

ESCAPES = [
    (info("../x"), "leads out"),
    (info("a/../../x"), "leads out"),
    (info("/x"), "leads out"),
    (info("out/x"), "leads out"),
    (info("away/x"), "leads out"),
    (info("d/..", tarfile.DIRTYPE), "leads out"),
    (info("out/d", tarfile.DIRTYPE), "leads out"),
    (info("out", tarfile.DIRTYPE), "leads out"),
    (info("out/l", tarfile.SYMTYPE, linkname="x"), "leads out"),
    (info("../l", tarfile.SYMTYPE, linkname="x"), "leads out"),
    (info("l", tarfile.SYMTYPE, linkname=""), "a link needs a target"),
    (info("l", tarfile.SYMTYPE, pax_headers={"linkpath": "a\0b"}), "NUL"),
    (info("d", tarfile.SYMTYPE, linkname="x"), "is a directory"),
    (info("l", tarfile.LNKTYPE, linkname="../x"), "leads out"),
    (info("l", tarfile.LNKTYPE, linkname="/etc/passwd"), "leads out"),
    (info("l", tarfile.LNKTYPE, linkname="out/x"), "leads out"),
    (info("out/l", tarfile.LNKTYPE, linkname="f"), "leads out"),
    (info("l", tarfile.LNKTYPE, linkname="d"), "is no regular file"),
    (info("l", tarfile.LNKTYPE, linkname="."), "is a directory"),
    (info("l", tarfile.LNKTYPE, linkname="missing"), "no such file"),
    (info("null", tarfile.CHRTYPE, devmajor=1, devminor=3), "device"),
    (info("disk", tarfile.BLKTYPE), "device"),
    (info("fifo", tarfile.FIFOTYPE), "fifo"),
    (info("d"), "is a directory"),
    (info("f/x"), "not a directory"),
    (info("f", tarfile.DIRTYPE), "not a directory"),
    (info("."), "is a directory"),
    (info(".sandbox-api-1"), "reserved"),
]


@pytest.mark.parametrize(("member", "text"), ESCAPES)
async def test_g25_unpack_never_leaves_the_directory(
    ends: Ends, tmp_path: Path, member: tarfile.TarInfo, text: str
) -> None:
    """Names, links and devices that lead out end it; what came before stays and is counted."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "f").write_text("old")
    (root / "in").symlink_to("d")
    (root / "out").symlink_to("..")
    (root / "away").symlink_to(tmp_path / "nothing yet")
    (tmp_path / "x").write_text("outside")
    before = {**facts(tmp_path)}
    data = pack(tarfile.PAX_FORMAT, (info("before"), b"B"), (member, b""), (info("after"), b""))
    with pytest.raises(FailedError, match=text) as caught:
        await ends.unpack("root", data)
    assert caught.value.fields == {"entries": 1}
    assert caught.value.message.startswith("error unpacking archive: ")
    after = facts(tmp_path)
    assert after.pop("root/before")
    assert after == before


async def test_g25_links_of_the_archive_cannot_be_used_to_leave(ends: Ends, tmp_path: Path) -> None:
    """A link that becomes one that leads out by what comes later is not followed out."""
    data = pack(
        tarfile.GNU_FORMAT,
        (info("a/b/c/", tarfile.DIRTYPE), b""),
        (info("a/b/up", tarfile.SYMTYPE, linkname="../.."), b""),
        (info("l", tarfile.SYMTYPE, linkname="a/b/up"), b""),
        (info("l/inside"), b"I"),
        (info("a/b/up/a/b/up/inside2"), b"I"),
    )
    await ends.unpack("root/", data)
    assert sorted(os.listdir(tmp_path / "root")) == ["a", "inside", "inside2", "l"]
    assert os.listdir(tmp_path) == ["root"]


OUTGOING = ["/usr/bin/python3", "..", "../../x", "d/../../x", "/", "nowhere", ".", "d"]


@pytest.mark.parametrize("target", OUTGOING)
async def test_links_are_what_the_archive_says(ends: Ends, tmp_path: Path, target: str) -> None:
    """Wherever they lead, in a new place and in that of an older file or link."""
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "was a file").write_text("old")
    (tmp_path / "root" / "was a link").symlink_to("old")
    names = ("d/new", "was a file", "was a link")
    links = [(info(name, tarfile.SYMTYPE, linkname=target, mtime=100), b"") for name in names]
    again = [(info("again", tarfile.LNKTYPE, linkname="d/new"), b"")]
    for _ in range(2):
        await ends.unpack("root", pack(tarfile.GNU_FORMAT, *links, *again))
        for name in (*names, "again"):
            path = tmp_path / "root" / name
            assert (os.readlink(path), path.lstat().st_mtime) == (target, 100)


@pytest.mark.parametrize("leads_to", ["{outside}", "../outside", "first/../../outside"])
@pytest.mark.parametrize("name", ["l/x", "first/l/x", "first/l/d/"])
async def test_g25_nothing_is_written_through_a_link_of_the_archive(
    ends: Ends, tmp_path: Path, leads_to: str, name: str
) -> None:
    """Not a file, a directory or a link: the name behind it ends the archive."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("old")
    target = leads_to.format(outside=tmp_path / "outside")
    before = facts(tmp_path / "outside")
    link = [
        (info("first/", tarfile.DIRTYPE), b""),
        (info("l", tarfile.SYMTYPE, linkname=target), b""),
        (info("first/l", tarfile.SYMTYPE, linkname="../l"), b""),
    ]
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
        member = info(name, kind, linkname="/" if kind == tarfile.SYMTYPE else "l")
        with pytest.raises(FailedError, match="leads out of the directory") as caught:
            await ends.unpack("root/", pack(tarfile.GNU_FORMAT, *link, (member, b"")))
        assert caught.value.fields == {"entries": 3}
        assert facts(tmp_path / "outside") == before


async def test_g25_a_file_takes_the_place_of_a_link(ends: Ends, tmp_path: Path) -> None:
    """What a link leads to stays as it is, inside and outside; also when it comes twice."""
    (tmp_path / "outside").write_text("old")
    data = pack(
        tarfile.GNU_FORMAT,
        (info("inside"), b"I"),
        (info("a", tarfile.SYMTYPE, linkname="inside"), b""),
        (info("a", mode=0o640), b"A"),
        (info("b", tarfile.SYMTYPE, linkname=str(tmp_path / "outside")), b""),
        (info("b"), b"B"),
        (info("c", tarfile.SYMTYPE, linkname="d"), b""),
        (info("d/", tarfile.DIRTYPE), b""),
        (info("c"), b"C"),
    )
    await ends.unpack("root/", data)
    found = {
        path.name: path.read_text() for path in (tmp_path / "root").iterdir() if not path.is_dir()
    }
    assert found == {"inside": "I", "a": "A", "b": "B", "c": "C"}
    assert not any(path.is_symlink() for path in (tmp_path / "root").iterdir())
    assert stat.S_IMODE((tmp_path / "root" / "a").stat().st_mode) == 0o640
    assert (tmp_path / "outside").read_text() == "old"


async def test_a_virtual_environment_survives(ends: Ends, tmp_path: Path) -> None:
    """Its python is a link that leads out; it still runs after the way there and back, twice."""
    venv.create(tmp_path / "a" / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "a" / "venv" / "bin" / "python"
    assert any(link.is_absolute() for link in map(Path.readlink, python.parent.glob("python*")))
    data = await ends.pack("a", compressed=True)
    for _ in range(2):
        await ends.unpack("b/", data, compressed=True)
        assert facts(tmp_path / "b") == facts(tmp_path / "a")
    python = tmp_path / "b" / "venv" / "bin" / "python"
    said = run([str(python), "-c", "import sys; print(sys.prefix)"]).decode().strip()
    assert said == str(tmp_path / "b" / "venv")


async def test_unpack_over_what_is_there(ends: Ends, tmp_path: Path) -> None:
    """Files get the archive's content, mode and time; links are replaced; the rest stays."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True, mode=0o700)
    (root / "d" / "kept").write_text("kept")
    (root / "f").write_text("old")
    (root / "l").symlink_to("nowhere")
    data = pack(
        tarfile.GNU_FORMAT,
        (info("./", tarfile.DIRTYPE, mode=0o777), b""),
        (info("d/", tarfile.DIRTYPE, mode=0o777), b""),
        (info("f", mode=0o4755, mtime=100), b"new"),
        (info("l", tarfile.SYMTYPE, linkname="f"), b""),
        (info("closed/", tarfile.DIRTYPE, mode=0o000), b""),
        (info("closed/f", mode=0o400), b"C"),
    )
    assert await ends.unpack("root", data) == Unpacked(5, 4)
    status = os.stat(root / "f")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o755, 100)
    assert (root / "l").read_text() == "new"
    assert (root / "d" / "kept").read_text() == "kept"
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(root / "closed").st_mode) == 0o700


async def test_unpack_into_what_is_no_directory(ends: Ends, tmp_path: Path) -> None:
    """A file stays a file; a new directory is made only where the path says that it is one."""
    (tmp_path / "file").write_text("old")
    for path in ("file", "file/", "new"):
        with pytest.raises(FailedError, match="is no directory"):
            await ends.unpack(path, b"")
    assert os.listdir(tmp_path) == ["file"]


async def test_g20_unpack_that_is_cut_off(ends: Ends, tmp_path: Path) -> None:
    """Whole files stay, the one in the middle is as it was before."""
    (tmp_path / "b").write_text("old")
    data = pack(
        tarfile.GNU_FORMAT, (info("a"), b"A" * 600), (info("b"), b"B" * 5000), (info("c"), b"")
    )
    with pytest.raises(FailedError, match="b: unexpected EOF") as caught:
        await ends.unpack(".", data[:4000])
    assert caught.value.fields == {"entries": 1}
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "b").read_text() == "old"


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-30], "the gzip stream is cut off"),
        (lambda data: data[:-8] + bytes(8), "no gzip stream, or a damaged one"),
        (lambda _: b"plain" * 300, "no gzip stream"),
        (lambda data: data[:40], "the archive is cut off"),
    ],
)
async def test_damaged_compression(ends: Ends, damage: Callable[[bytes], bytes], text: str) -> None:
    """It is told, also when only the checksum at the end is wrong."""
    data = gzip.compress(pack(tarfile.GNU_FORMAT, (info("a"), os.urandom(3000))))
    with pytest.raises(FailedError, match=text):
        await ends.unpack(".", damage(data), compressed=True)


async def test_a_bomb_takes_no_memory(ends: Ends, tmp_path: Path) -> None:
    """What is a thousand times larger when unpacked is taken in portions."""
    member = info("zeros")
    member.size = 300 << 20
    plain = member.tobuf(tarfile.GNU_FORMAT) + bytes(member.size + 1024)
    bomb = gzip.compress(plain, 9)
    del plain
    before = memory_kib()
    await ends.unpack(".", bomb, compressed=True)
    assert os.stat(tmp_path / "zeros").st_size == 300 << 20
    assert memory_kib() - before < 64 << 10


def memory_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0])


async def test_g28_unpack_on_a_full_disk(ends: Ends, small_disk: Path) -> None:
    """What does not fit is refused; after that there is room again."""
    data = pack(tarfile.GNU_FORMAT, (info("a"), b"A"), (info("b"), bytes(2 << 20)))
    with pytest.raises(FailedError, match=r"b: write .*: no space left on device") as caught:
        await ends.unpack(str(small_disk), data)
    assert caught.value.fields == {"entries": 1}
    assert os.listdir(small_disk) == ["a"]
    await ends.unpack(str(small_disk), pack(tarfile.GNU_FORMAT, (info("b"), bytes(900_000))))


async def test_g29_unpack_as_the_workload_user(tmp_path: Path, nobody_threads: FileThreads) -> None:
    """It writes what that user may, and all of it belongs to that user."""
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 65534, 65534)
    let_others_in(tmp_path)
    as_nobody = Ends(nobody_threads, tmp_path)
    data = pack(tarfile.GNU_FORMAT, (info("d/f", uid=0, gid=0, uname="root"), b"F"))
    await as_nobody.unpack("own/new/", data)
    for path in ("own/new", "own/new/d", "own/new/d/f"):
        assert os.stat(tmp_path / path).st_uid == 65534
    with pytest.raises(FailedError, match="permission denied"):
        await as_nobody.unpack(".", data)
