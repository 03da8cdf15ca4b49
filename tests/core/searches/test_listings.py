"""Directories that are read ahead of a walk: it sees the same as if it read them one by one."""

import errno
import operator
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox_api.core import walk as walk_module
from sandbox_api.core.searches import listings as listings_module
from sandbox_api.core.searches import prefilter
from sandbox_api.core.searches.fuzzy import FuzzyQuery, fuzzy
from sandbox_api.core.searches.listings import listings
from sandbox_api.core.searches.until import Until
from sandbox_api.core.walk import Entry, Walk, WalkScope
from tests.core.conftest import let_others_in
from tests.core.searches.conftest import make

native = vars(listings_module)["native"]  # None where the package was installed without a compiler

ENDLESS_S = 1000.0
DEADLINE_S = 10.0
LONGEST_NAME = 255
MOST_RECORDS_BYTES = 1 << 20  # of one directory, and enough for one call (_directories.c)
MOST_ENTRIES = 1024  # that are made in one call
MOST_UNKNOWN = 16  # directories in a row, then no more is asked
RECORD_BYTES = 280  # of an entry with the longest name

compiled = pytest.mark.skipif(native is None, reason="the package was not compiled here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
in_one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
every_way = pytest.mark.parametrize("helpers", [0, 1, 3])


def unordered(walk: Walk, helpers: int = 2) -> list[tuple[str, bool]]:
    """What a walk shows, and whether it says that it is a directory."""
    runs = walk.unordered(partial(listings, helpers=helpers))
    return [(entry.path, directory) for directory, entries in runs for entry in entries]


def ordered(walk: Walk) -> list[tuple[str, bool]]:
    """The same by the other way."""
    return [(entry.path, directory) for directory, entries in walk.runs() for entry in entries]


def read(*paths: Path | str) -> list[bytes | int | None]:
    return native.read_directories(os.fsencode("\0".join(map(str, paths))))


def all_entries(records: bytes, start: str = "") -> list[Entry]:
    entries, place = [], 0
    while place < len(records):
        some, place = native.entries(records, place, start)
        entries += some
    return entries


def write_tree(root: Path, tree: dict[bytes, object]) -> None:
    """Make what is named: a dict is a directory, bytes are content, the rest says what else."""
    os.makedirs(root, exist_ok=True)
    for name, what in tree.items():
        path = os.fsencode(root) + b"/" + name
        if isinstance(what, dict):
            write_tree(Path(os.fsdecode(path)), what)
        elif isinstance(what, bytes):
            Path(os.fsdecode(path)).write_bytes(what)
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "file":
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        else:
            os.symlink(os.fsencode(str(what)), path)


ODD = [b"a", b"a\n", b"\xff", b"\xc3\xa9", b"\xc3", b" ", b"...", b".h", b".git", b"dist", b"*"]
ODD += [b".sandbox-api-1", b"\xed\xb3\xbf", b"x" * LONGEST_NAME]
RULES = [b"a\n!a/\n*.x\n", b"a/\n", b"!a\n", b"/dist\n", b"a/a\n", b"*\n!*/\n!a\n"]


def directories(content: st.SearchStrategy[object]) -> st.SearchStrategy[dict[bytes, object]]:
    """Some names, each with something; often there are rules of what is ignored."""
    names = st.dictionaries(st.sampled_from(ODD), content, max_size=6)
    rules = st.dictionaries(st.just(b".gitignore"), st.sampled_from(RULES), max_size=1)
    return st.builds(operator.or_, names, rules)


TREES = st.recursive(
    directories(st.sampled_from(["file", "fifo", "/", ".", "..", "none"])),
    lambda below: directories(st.one_of(below, st.just("file"))),
    max_leaves=12,
)
# the outer ones hold below, and the inner ones take them back
NESTED_RULES = {
    b".gitignore": b"a\n",
    b" ": {b"a": "file"},
    b"dist": {b".gitignore": b"!a\n\xc3\xa9\n", b"a": {b"a": "file"}, b"\xc3\xa9": "file"},
}
SCOPES = st.builds(
    WalkScope,
    exclude_directories=st.sampled_from([frozenset[str](), frozenset({"dist", "a\n"})]),
    exclude_hidden=st.booleans(),
    gitignore=st.booleans(),
)


@in_one_directory
@given(tree=TREES, scope=SCOPES, helpers=st.integers(0, 2), batch=st.sampled_from([1, 2, 64]))
@example(tree={b"a": {b"a": {b"a": {b"a": {}}}}}, scope=WalkScope(), helpers=1, batch=1)
@example(tree=NESTED_RULES, scope=WalkScope(gitignore=True), helpers=1, batch=1)
def test_a_walk_shows_the_same_in_every_way(
    tmp_path: Path, tree: dict[bytes, object], scope: WalkScope, helpers: int, batch: int
) -> None:
    """With the module and without it, whatever the names; a directory before what is in it."""
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    write_tree(root, tree)
    expected = sorted(ordered(Walk(str(root), scope)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listings_module, "BATCH", batch)
        seen = unordered(Walk(str(root), scope), helpers)
        patch.setattr(listings_module, "native", None)
        assert sorted(seen) == sorted(unordered(Walk(str(root), scope))) == expected
    shown = {str(root)}
    for path, directory in seen:
        assert os.path.dirname(path) in shown
        shown |= {path} if directory else set()


@in_one_directory
@given(
    tree=TREES,
    query=st.builds(
        FuzzyQuery,
        text=st.sampled_from(["a", "h", "é", "aa", "xx"]),
        approximate=st.booleans(),
        patterns=st.sampled_from([(), ("a*",), ("**/a",)]),
        scope=SCOPES,
        limit=st.integers(0, 2),
    ),
    helpers=st.integers(0, 2),
)
@example(tree=NESTED_RULES, query=FuzzyQuery(text="a", scope=WalkScope(gitignore=True)), helpers=1)
def test_a_search_finds_the_same_without_it(
    tmp_path: Path, tree: dict[bytes, object], query: FuzzyQuery, helpers: int
) -> None:
    """Matches, their order, whether there are more, and how much could not be read.

    As without the module, so with a walk in order.
    """
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    write_tree(root, tree)
    outcome = fuzzy(str(root), query, Until(ENDLESS_S), helpers=helpers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listings_module, "native", None)
        patch.setattr(prefilter, "native", None)
        assert outcome == fuzzy(str(root), query, Until(ENDLESS_S))
        patch.setattr(Walk, "unordered", lambda walk, _: walk.runs())
        assert outcome == fuzzy(str(root), query, Until(ENDLESS_S))


@every_way
@pytest.mark.usefixtures("both")
def test_what_changes_meanwhile(tmp_path: Path, helpers: int) -> None:
    """Since it was listed, one has vanished, one is a link now, and one is a file."""
    names = ["gone", "linked", "replaced", "stays"]
    make(tmp_path / "root", {f"{name}/f": "" for name in names})
    make(tmp_path / "elsewhere", {"secret": ""})
    walk, seen = Walk(str(tmp_path / "root")), []
    for _, (entry, *_) in walk.unordered(partial(listings, helpers=helpers)):
        seen.append(os.path.relpath(entry.path, tmp_path / "root"))
        if len(seen) == len(names):
            for name in names[:-1]:
                shutil.rmtree(tmp_path / "root" / name)
            (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
            (tmp_path / "root" / "replaced").touch()
    assert sorted(seen) == [*names, "stays/f"]
    assert walk.unreadable == 3


@every_way
@as_root
@pytest.mark.usefixtures("both")
def test_directories_are_read_as_the_user_of_the_search(
    tmp_path: Path, as_nobody: Callable[..., object], helpers: int
) -> None:
    """On whatever thread: those that this user may not read are shown, and counted."""
    make(tmp_path, {f"{n}/f": "" for n in range(40)} | {"closed/f": "", "1/closed/f": ""})
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "1" / "closed").chmod(0o711)
    let_others_in(tmp_path)
    tmp_path.chmod(0o755)
    walk = Walk(str(tmp_path))
    seen = as_nobody(unordered, walk, helpers)
    assert isinstance(seen, list)
    assert (len(seen), walk.unreadable) == (40 + 40 + 2, 2)
    with pytest.raises(PermissionError):
        as_nobody(unordered, Walk(str(tmp_path / "closed")), helpers)


@every_way
@pytest.mark.usefixtures("both")
def test_the_start_may_be_a_link(tmp_path: Path, helpers: int) -> None:
    """It is what was asked for; and it may be missing."""
    make(tmp_path, {"real/d/f": ""})
    (tmp_path / "link").symlink_to("real")
    start = str(tmp_path / "link")
    assert unordered(Walk(start), helpers) == [(f"{start}/d", True), (f"{start}/d/f", False)]
    with pytest.raises(FileNotFoundError):
        unordered(Walk(str(tmp_path / "none")), helpers)


@every_way
@pytest.mark.usefixtures("both")
def test_a_tree_that_is_too_deep(tmp_path: Path, helpers: int) -> None:
    """Where paths are longer than the system takes, what is below is counted as unreadable."""
    name = "d" * 200
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    walk, reference = Walk(str(tmp_path)), Walk(str(tmp_path))
    assert sorted(unordered(walk, helpers)) == ordered(reference)
    assert walk.unreadable == reference.unreadable == 1


@every_way
@pytest.mark.usefixtures("both")
def test_the_kernels_own_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    """A file system such as /proc is shown and not entered, wherever it is."""
    make(tmp_path, {"a/x": "", "b/a/y": "", "b/c": ""})
    mounted = {str(tmp_path / "a"), str(tmp_path / "b" / "a")}
    monkeypatch.setattr(walk_module, "kernel_mounts_below", lambda _: mounted)
    seen = [os.path.relpath(path, tmp_path) for path, _ in unordered(Walk(str(tmp_path)), helpers)]
    assert sorted(seen) == ["a", "b", "b/a", "b/c"]


@every_way
@pytest.mark.usefixtures("both")
def test_it_can_be_stopped(tmp_path: Path, helpers: int) -> None:
    """Before it begins, and between two directories; and no thread is left."""
    make(tmp_path, {f"{n}/f": "" for n in range(200)})
    everything = len(unordered(Walk(str(tmp_path)), helpers))
    assert everything == 400
    assert unordered(Walk(str(tmp_path), stopped=lambda: True), helpers) == []
    for looks in (1, 2, 20):
        asked: list[int] = []

        def stopped(asked: list[int] = asked, looks: int = looks) -> bool:
            asked.append(1)
            return len(asked) > looks

        assert 0 < len(unordered(Walk(str(tmp_path), stopped=stopped), helpers)) < everything
        assert len(asked) <= looks + 2
    begun = Walk(str(tmp_path)).unordered(partial(listings, helpers=helpers))
    for _ in range(210):
        next(begun)
    begun.close()
    assert not [one.name for one in threading.enumerate() if one.name.startswith("search-helper")]


@pytest.mark.usefixtures("both")
def test_a_large_directory_is_seen_in_pieces(tmp_path: Path) -> None:
    """So that whoever wants no more gets no more."""
    make(tmp_path, {f"large/{n}": "" for n in range(3 * MOST_ENTRIES)})
    stopped = threading.Event()
    seen = 0
    for _, entries in Walk(str(tmp_path), stopped=stopped.is_set).unordered(
        partial(listings, helpers=0)
    ):
        seen += len(entries)
        if seen > 1:
            stopped.set()
    assert MOST_ENTRIES - 2 <= seen - 1 <= MOST_ENTRIES


@pytest.mark.usefixtures("both")
def test_a_search_ends_in_time(tmp_path: Path) -> None:
    """And says that there may be more."""
    make(tmp_path, {f"{n}/needle": "" for n in range(9)})
    outcome = fuzzy(str(tmp_path), FuzzyQuery(text="needle"), Until(0), helpers=1)
    assert (outcome.matches, outcome.truncated, outcome.timed_out) == ([], True, True)


@compiled
def test_answers(tmp_path: Path) -> None:
    """Records, why there are none, or that it is for somebody else to look."""
    make(tmp_path, {"d/f": "", "file": ""})
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    directory, empty, *failed = read(
        *(tmp_path / name for name in ("d", "empty", "file", "link", "loop", "fifo", "none")), ""
    )
    assert isinstance(directory, bytes)
    assert isinstance(empty, bytes)
    (entry,) = all_entries(directory, "start/")
    assert (entry.name, entry.path) == ("f", "start/f")
    assert all_entries(empty) == []
    assert failed == [*[errno.ENOTDIR] * 4, errno.ENOENT, errno.ENOENT]
    assert read("/" + "x" * 300) == [errno.ENAMETOOLONG]


@compiled
def test_calls_are_short(tmp_path: Path) -> None:
    """A directory that is too large is for whoever asks; several are for several calls."""
    most = MOST_RECORDS_BYTES // RECORD_BYTES
    names = [f"{n:0{LONGEST_NAME}}" for n in range(most + 1)]
    make(tmp_path, dict.fromkeys((f"large/{name}" for name in names), ""))
    for number in range(6):
        make(tmp_path, dict.fromkeys((f"{number}/{name}" for name in names[: most // 4]), ""))
    large, above = read(tmp_path / "large", tmp_path)
    assert large is None
    assert isinstance(above, bytes)
    assert {entry.name for entry in all_entries(above)} == {"large", *map(str, range(6))}
    answers = read(*(tmp_path / str(number) for number in range(6)))
    assert 1 <= len(answers) <= 5
    assert all(answers)
    assert len(read(*["/none"] * 1000)) <= 256
    assert sorted(unordered(Walk(str(tmp_path)))) == sorted(ordered(Walk(str(tmp_path))))


@compiled
def test_entries_are_those_of_the_system(tmp_path: Path) -> None:
    """Names, paths and types, and not too many at once."""
    write_tree(tmp_path, dict.fromkeys(ODD, "file") | {b"d": {}, b"l": "d", b"p": "fifo"})
    make(tmp_path, {f"f{n}": "" for n in range(2 * MOST_ENTRIES)})
    (records,) = read(tmp_path)
    assert isinstance(records, bytes)
    with os.scandir(tmp_path) as scan:
        expected = [(e.name, e.path, e.is_dir(follow_symlinks=False)) for e in scan]
    entries = all_entries(records, f"{tmp_path}/")
    assert [(e.name, e.path, e.is_dir(follow_symlinks=False)) for e in entries] == expected
    assert len(native.entries(records, 0, "")[0]) <= MOST_ENTRIES
    with pytest.raises(AttributeError):
        vars(type(entries[0]))["name"].__set__(entries[0], "x")
    for wrong in ({}, {"follow_symlinks": True}, {"x": False}):
        with pytest.raises(TypeError):
            entries[0].is_dir(**wrong)
    with pytest.raises(TypeError):
        type(entries[0])()


@compiled
@given(records=st.binary(max_size=80), place=st.integers(-9, 90))
@example(records=b"\0" * 16 + b"\x18\0\x08a\0\0\0\0", place=0)
@example(records=b"\0" * 16 + b"\x18\0\x08aaaaa", place=0)
@example(records=b"\0" * 16 + b"\xff\0\x08a\0\0\0\0", place=0)
@example(records=b"\0" * 8 + b"\x18\0\x08a\0\0\0\0", place=-8)
def test_what_is_no_record(records: bytes, place: int) -> None:
    """It fails, and does not read what is not its own."""
    try:
        entries, end = native.entries(records, place, "/")
    except ValueError as exc:
        assert str(exc) == "no record of a directory"  # noqa: PT017 - either may be
    else:
        assert place >= 0
        assert 0 <= len(entries) <= len(records) // 24
        assert end == len(records)


@compiled
def test_arguments_of_the_wrong_kind() -> None:
    """It fails."""
    with pytest.raises(TypeError):
        native.read_directories("/")
    for wrong in (("", 0, "/"), (b"", "", "/"), (b"", 0, b"/"), (b"", 0)):
        with pytest.raises(TypeError):
            native.entries(*wrong)


@every_way
def test_what_the_module_leaves_open_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    """It knows nothing of some, and answers for one at a time."""
    make(tmp_path, {f"{n}/{m}/f": "" for n in range(5) for m in range(5)})
    (tmp_path / "0" / "1" / "link").symlink_to("/")
    fake = SimpleNamespace(read_directories=lambda _: [None])
    monkeypatch.setattr(listings_module, "native", fake)
    assert sorted(unordered(Walk(str(tmp_path)), helpers)) == sorted(ordered(Walk(str(tmp_path))))


@every_way
@pytest.mark.parametrize(
    "shape", ["{n}", "{n}/a/b", "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/{n}"]
)
def test_a_module_that_knows_nothing_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, helpers: int
) -> None:
    """Of a file system that tells no types: only at first is a directory read twice."""
    make(tmp_path, {f"{shape.format(n=n)}/f": "" for n in range(100)})
    asked: list[bytes] = []

    def read_directories(paths: bytes) -> list[None]:
        asked.extend(paths.split(b"\0"))
        return [None] * (paths.count(b"\0") + 1)

    fake = SimpleNamespace(read_directories=read_directories)
    monkeypatch.setattr(listings_module, "native", fake)
    monkeypatch.setattr(listings_module, "BATCH", 2)
    assert sorted(unordered(Walk(str(tmp_path)), helpers)) == sorted(ordered(Walk(str(tmp_path))))
    assert len(asked) <= MOST_UNKNOWN + 2 * (2 * helpers + 1)


@every_way
def test_a_module_that_does_not_know_everything_is_asked_on(
    monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    """Of large directories, however many: others are between them."""
    asked: list[bytes] = []

    def read_directories(paths: bytes) -> list[bytes | None]:
        asked.extend(paths.split(b"\0"))
        return [None if int(path) % 7 else b"" for path in paths.split(b"\0")]

    fake = SimpleNamespace(read_directories=read_directories)
    monkeypatch.setattr(listings_module, "native", fake)
    monkeypatch.setattr(listings_module, "BATCH", 3)
    unread = [(str(n), n) for n in range(100)]
    assert sorted(n for _, n, _ in listings(unread, helpers)) == list(range(100))
    assert len(asked) == 100


def test_a_helper_that_is_slow_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the search reads what is left meanwhile; in the end it has all."""
    make(tmp_path, {f"{n}/f": "" for n in range(9)})
    read_here, names = threading.Event(), set[str]()

    def read_directories(paths: bytes) -> list[None]:
        name = threading.current_thread().name
        names.add(name)
        if name.startswith("search-helper"):
            assert read_here.wait(DEADLINE_S)
        else:
            read_here.set()
        return [None] * (paths.count(b"\0") + 1)

    fake = SimpleNamespace(read_directories=read_directories)
    monkeypatch.setattr(listings_module, "native", fake)
    assert len(unordered(Walk(str(tmp_path)), helpers=1)) == 18
    assert len(names) == 2


@pytest.mark.parametrize("width", [1, 2, 4])
def test_helpers_are_not_asked_to_read_a_few(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """The thread of the search has them in one call, before a helper would begin."""
    calls: list[str] = []

    def read_directories(paths: bytes) -> list[bytes]:
        calls.append(threading.current_thread().name)
        return [b""] * (paths.count(b"\0") + 1)

    fake = SimpleNamespace(read_directories=read_directories)
    monkeypatch.setattr(listings_module, "native", fake)
    level = [("/", None)] * width
    unread = level.copy()
    for read, _ in enumerate(listings(unread, helpers=3), 1):
        if read % width == 0 and read < 20 * width:
            unread += level
    assert calls == [threading.current_thread().name] * 20


def test_not_too_much_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directories there are: what waits takes memory."""
    batch, helpers = 2, 3
    asked: list[int] = []

    def read_directories(paths: bytes) -> list[bytes]:
        asked.append(paths.count(b"\0") + 1)
        return [b""] * asked[-1]

    fake = SimpleNamespace(read_directories=read_directories)
    monkeypatch.setattr(listings_module, "native", fake)
    monkeypatch.setattr(listings_module, "BATCH", batch)
    unread = [(f"/{n}", n) for n in range(100)]
    for begun, _ in enumerate(listings(unread, helpers)):
        assert sum(asked) <= begun + batch * (2 * helpers + 1)
    assert sum(asked) == 100
