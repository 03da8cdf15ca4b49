"""The quick look at many files and paths: it may let too much through, and never too little."""

import os
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox_api.core import linux
from sandbox_api.core.searches import helpers as helpers_module
from sandbox_api.core.searches import prefilter
from sandbox_api.core.searches.grep import Grep, GrepMatch, GrepQuery
from sandbox_api.core.searches.helpers import Helpers
from sandbox_api.core.searches.matching import Required, literal_matcher
from sandbox_api.core.searches.prefilter import can_tell, files_worth_reading, in_batches
from sandbox_api.core.searches.scoring import Scorer
from sandbox_api.core.searches.until import Until
from tests.core.searches.conftest import make

native = vars(prefilter)["native"]  # None where the package was installed without a compiler

ENDLESS_S = 1000.0
DEADLINE_S = 10.0
BUFFER_BYTES = 128 * 1024  # of _native.c
MOST_BYTES = 32 * BUFFER_BYTES  # of one file that it reads
MOST_OF_A_CALL_BYTES = 16 << 20
NOBODY = 65534

CAN_COMPILE = (
    shutil.which(os.environ.get("CC", "cc").split(" ")[0]) is not None
    and Path(sysconfig.get_path("include"), "Python.h").exists()
    and Path(sys.prefix, "setup-dev").exists()  # scripts/setup has made this environment
)
compiled = pytest.mark.skipif(native is None, reason="the package was not compiled here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
in_one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def worth(
    *paths: Path, text: bytes = b"needle", any_case: bool = False, binary_bytes: int = 0
) -> list[bool]:
    joined = b"\0".join(map(os.fsencode, paths))
    end_s = time.monotonic() + ENDLESS_S
    flags = native.may_hold(joined, text, any_case, binary_bytes, end_s)
    return [bool(flag) for flag in flags]


def grep(
    root: Path, query: GrepQuery, until: Until | None = None, helpers: int = 2
) -> tuple[list[GrepMatch], Grep]:
    found: list[GrepMatch] = []
    matcher = literal_matcher(query.text, case_sensitive=query.case_sensitive)
    until = until or Until(ENDLESS_S)
    search = Grep(str(root), query, matcher, until, found.append, helpers=helpers)
    search.run()
    return found, search


@pytest.mark.skipif(not CAN_COMPILE, reason="there is no C compiler, or scripts/setup was not run")
def test_the_module_is_built() -> None:
    """Where it can be: else nobody would notice that searches take longer."""
    assert native is not None


PIECES = ["a", "A", "b", "ab", "\n", "é", "É", "\0", "\xff", "@", "`", "[", "{"]
PIECES += ["a" * 70, "b" * 300]


@compiled
@in_one_directory
@given(
    data=st.lists(st.sampled_from(PIECES), max_size=30),
    text=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3),
    any_case=st.booleans(),
)
@example(data=["a" * 70] * 30, text=["a" * 70, "b", "a" * 70], any_case=False)
def test_no_file_is_missed(
    tmp_path: Path, data: list[str], text: list[str], any_case: bool
) -> None:
    """Where the text is in the file, the answer is yes; where not, it is nearly always no."""
    content, wanted = "".join(data).encode("latin-1"), "".join(text).encode("latin-1")
    wanted = wanted[: native.MAX_TEXT]
    make(tmp_path, {"f": content})
    (answer,) = worth(tmp_path / "f", text=wanted, any_case=any_case)
    holds = wanted.lower() in content.lower() if any_case else wanted in content
    repeats = any(len(piece) > 3 for piece in data)  # then it may say yes to save time
    assert answer is holds or (answer and repeats)


@compiled
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_every_place_of_a_file_is_seen(tmp_path: Path, size: int) -> None:
    """Many places are compared at once, and what is left one by one."""
    text = b"<" + b"-" * (size - 2) + b">" if size > 1 else b"<"
    for before in range(70):
        make(
            tmp_path,
            {"f": b"." * before + text + b"." * (before % 3), "g": b"." * before + text[1:]},
        )
        assert worth(tmp_path / "f", tmp_path / "g", text=text) == [True, False]


@compiled
def test_a_text_between_two_blocks(tmp_path: Path) -> None:
    """A large file is read in blocks, and nothing is lost between two."""
    for place in (
        *range(BUFFER_BYTES - 8, BUFFER_BYTES + 3),
        2 * BUFFER_BYTES - 11,
        3 * BUFFER_BYTES,
    ):
        make(tmp_path, {"f": b"." * place + b"needle", "g": b"." * place + b"needl"})
        assert worth(tmp_path / "f", tmp_path / "g") == [True, False]


@compiled
def test_what_is_not_read(tmp_path: Path) -> None:
    """Binary files are ruled out at once; what takes longer, or fails, is not."""
    make(tmp_path, {"a": "none", "\udcff": "needle", "bin": b"\0needle"})
    make(tmp_path, {"late": b"." * 10 + b"\0needle", "large": b"\0" + b"needle." * BUFFER_BYTES})
    make(tmp_path, {"huge": "." * 20})
    os.truncate(tmp_path / "huge", MOST_BYTES + 1)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("a")
    expected = {"a": False, "\udcff": True, "bin": False, "late": True, "large": False}
    expected |= {
        "huge": True,
        "fifo": False,
        "link": True,
        "none": True,
        ".": True,
        "x" * 300: True,
    }
    answers = worth(*(tmp_path / name for name in expected), binary_bytes=10)
    assert dict(zip(expected, answers, strict=True)) == expected
    assert worth(tmp_path / "bin", tmp_path / "large") == [True, True]


@compiled
def test_when_the_time_is_over_nothing_is_ruled_out(tmp_path: Path) -> None:
    """The search then sees the same, and says that there may be more."""
    make(tmp_path, {"a": "none"})
    joined = os.fsencode(tmp_path / "a")
    assert native.may_hold(joined, b"needle", False, 0, time.monotonic() - 1) == b"\1"
    found, search = grep(tmp_path, GrepQuery(text="needle"), until := Until(0))
    assert (found, search.unreadable, until.timed_out) == ([], 0, True)


@compiled
@pytest.mark.parametrize("abandoned", [False, True])
def test_large_files_are_for_several_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abandoned: bool
) -> None:
    """So that a search which nobody waits for any more ends soon, and one that goes on sees all."""
    for number in range(10):
        make(tmp_path, {str(number): ""})
        os.truncate(tmp_path / str(number), MOST_OF_A_CALL_BYTES // 5)
    make(tmp_path, {"last": "needle"})
    with os.scandir(tmp_path) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    until, looked_at = Until(ENDLESS_S), list[int]()

    def may_hold(*args: object) -> bytes:
        flags: bytes = native.may_hold(*args)
        looked_at.append(len(flags))
        until.abandoned = abandoned
        return flags

    monkeypatch.setattr(prefilter, "native", SimpleNamespace(may_hold=may_hold))
    required = Required(b"needle", any_case=False)
    (found,) = files_worth_reading([entries], required, 0, until, 0)
    assert looked_at == ([6] if abandoned else [6, 5])
    assert found == (entries[6:] if abandoned else entries[10:])


@compiled
def test_texts_that_it_refuses() -> None:
    """Empty or too long ones: they are not asked for."""
    most = native.MAX_TEXT
    for text in (b"", b"x" * (most + 1)):
        with pytest.raises(ValueError, match="a text has 1 to 256 bytes"):
            native.may_hold(b"/x", text, False, 0, 0.0)
        with pytest.raises(ValueError, match="a text has 1 to 256 bytes"):
            native.may_hold_in_order(["/x"], text, False, 0)
    assert can_tell(Required(b"x" * most, any_case=False))
    assert not can_tell(Required(b"x" * (most + 1), any_case=False))


CONTENTS = st.lists(st.sampled_from([*PIECES, "needle", "NEEDLE", "éc", "Éc"]), max_size=12)


@compiled
@in_one_directory
@given(
    contents=st.lists(CONTENTS, max_size=6),
    query=st.builds(
        GrepQuery,
        text=st.sampled_from(["a", "ab", "needle", "école", "éc", "É", "aé", "\0a"]),
        case_sensitive=st.booleans(),
        binary=st.booleans(),
        limit=st.integers(0, 3),
        context_lines=st.integers(0, 1),
        excluded=st.sampled_from([(), ("1.*",)]),
    ),
    helpers=st.integers(0, 2),
)
def test_a_search_gives_the_same_without_it(
    tmp_path: Path, contents: list[list[str]], query: GrepQuery, helpers: int
) -> None:
    """Matches, their order, whether there are more, and how much could not be read."""
    shutil.rmtree(tmp_path / "tree", ignore_errors=True)
    for number, pieces in enumerate(contents):
        encoding = "utf-8" if number % 2 else "latin-1"
        make(
            tmp_path / "tree", {f"{number % 3}/{number}.é\udcff": "".join(pieces).encode(encoding)}
        )
    (tmp_path / "tree").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefilter, "BATCH", 2)
        found, search = grep(tmp_path / "tree", query, helpers=helpers)
        patch.setattr(prefilter, "native", None)
        expected, reference = grep(tmp_path / "tree", query)
    assert found == expected
    assert search.truncated is reference.truncated
    assert search.unreadable == reference.unreadable == 0


@compiled
@as_root
def test_files_are_read_as_the_user_of_the_search(tmp_path: Path) -> None:
    """On whatever thread: a file that this user may not read is counted, not looked into."""
    make(tmp_path, {"closed": "no match", "open": "needle"})
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0o600)
    results: list[tuple[list[GrepMatch], Grep]] = []

    def as_nobody() -> None:
        linux.set_thread_identity(NOBODY, NOBODY, ())
        os.chdir("/")  # what lies above the directory of the test is closed to others
        results.append(grep(Path(f"/proc/self/fd/{fd}/."), GrepQuery(text="needle")))

    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (thread := threading.Thread(target=as_nobody)).start()
        thread.join()
    finally:
        os.close(fd)
    ((found, search),) = results
    assert ([match.path for match in found], search.unreadable) == (["open"], 1)


@compiled
def test_a_search_that_ends_early_leaves_no_thread(tmp_path: Path) -> None:
    """The limit is reached while files behind it are still looked at."""
    make(tmp_path, {f"{number}": "needle\n" * 3 for number in range(3 * prefilter.BATCH)})
    found, search = grep(tmp_path, GrepQuery(text="needle", limit=2))
    assert ([(match.path, match.line) for match in found], search.truncated) == (
        [("0", 1), ("0", 2)],
        True,
    )
    assert not [one.name for one in threading.enumerate() if one.name.startswith("search-helper")]


@compiled
def test_a_failure_reaches_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not keep it waiting."""
    make(tmp_path, {"a": "needle"})

    def no_entries() -> Iterator[list[os.DirEntry[str]]]:
        with os.scandir(tmp_path) as entries:
            yield list(entries)
        raise OSError("the walk fails")

    monkeypatch.setattr(prefilter, "BATCH", 1)
    required = Required(b"needle", any_case=False)
    with pytest.raises(OSError, match="the walk fails"):
        list(files_worth_reading(no_entries(), required, 0, Until(ENDLESS_S), 1))


def test_helpers_are_for_all_searches_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each core but one, at most three; who comes later has those that are left."""
    for cores, most in ((1, 0), (2, 1), (64, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        helpers = Helpers()
        for _ in range(2):
            with helpers.some() as first, helpers.some() as second:
                assert (first, second) == (most, 0)


def test_helpers_let_others_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a lower priority; the thread of the search, which may hold up others, has not."""
    make(tmp_path, {str(number): "" for number in range(30)})
    seen: list[tuple[bool, int]] = []
    helped = threading.Event()

    def may_hold(*_: object) -> bytes:
        is_helper = threading.current_thread().name.startswith("search-helper")
        seen.append((is_helper, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        helped.set() if is_helper else helped.wait(DEADLINE_S)
        return b"\0"

    monkeypatch.setattr(prefilter, "BATCH", 1)
    monkeypatch.setattr(prefilter, "native", SimpleNamespace(may_hold=may_hold, MAX_TEXT=9))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    grep(tmp_path, GrepQuery(text="needle"), helpers=1)
    grep(tmp_path, GrepQuery(text="needle"), helpers=0)
    assert set(seen) == {(True, min(own + helpers_module.HELPER_NICENESS, 19)), (False, own)}


def refuse_threads(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """No thread starts after the first ones, as where there are as many processes as may be."""
    start = threading.Thread.start
    left = iter(range(started))

    def start_or_refuse(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)


def refuse_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a filter of system calls does."""

    def nice(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", nice)


def break_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end before they do anything; what they were given already waits for them."""
    given = threading.Event()

    def fail() -> None:
        given.wait(DEADLINE_S)
        raise MemoryError

    def done(flags: bytes) -> Future[bytes]:
        given.set()
        for thread in threading.enumerate():
            if thread.name.startswith("search-helper"):
                thread.join(DEADLINE_S)
        return original(flags)

    original = vars(helpers_module)["_done"]
    monkeypatch.setattr(helpers_module, "_let_others_go_first", fail)
    monkeypatch.setattr(helpers_module, "_done", done)


@compiled
@pytest.mark.parametrize(
    "hinder",
    [
        partial(refuse_threads, started=0),
        partial(refuse_threads, started=1),
        refuse_nice,
        break_helpers,
    ],
    ids=["no thread", "one thread", "no priority", "broken"],
)
def test_helpers_are_only_for_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hinder: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Where they cannot be had, or fail, a search finds the same."""
    names = [f"{number:02}" for number in range(60)]
    make(tmp_path, dict.fromkeys(names, "needle"))
    monkeypatch.setattr(prefilter, "BATCH", 2)
    hinder(monkeypatch)
    found, search = grep(tmp_path, GrepQuery(text="needle"))
    assert ([match.path for match in found], search.unreadable) == (names, 0)


def test_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same entries in the same order, however long the runs of the walk are."""
    make(tmp_path, {str(number): "" for number in range(9)})
    with os.scandir(tmp_path) as scan:
        entries = list(scan)
    monkeypatch.setattr(prefilter, "BATCH", 4)
    for runs in ([entries], [[entry] for entry in entries], [entries[:3], [], entries[3:]]):
        batches = list(in_batches(runs))
        assert [len(batch) for batch in batches] == [4, 4, 1]
        assert [entry for batch in batches for entry in batch] == entries
    assert list(in_batches([[], []])) == []


@compiled
@given(
    query=st.text("abAB/é.", min_size=1, max_size=4),
    paths=st.lists(st.text("abcAB/éÉ.\udcff", min_size=1, max_size=12), min_size=1, max_size=5),
    start=st.sampled_from(["/", "/é/", "/ab/\udcff/"]),
)
def test_paths_that_hold_a_query(query: str, paths: list[str], start: str) -> None:
    """As the scorer says, which has the last word."""
    scorer = Scorer(query)
    assert (scorer.required is not None) is query.isascii()
    if scorer.required is None:
        return
    whole = [start + path for path in paths]
    flags = native.may_hold_in_order(whole, *scorer.required, len(os.fsencode(start)))
    expected = [bool(scorer.holds(path, len(start))) for path in whole]
    plain = ["\udcff" not in path for path in whole]  # of others it does not know
    assert [bool(flag) and known for flag, known in zip(flags, plain, strict=True)] == [
        holds and known for holds, known in zip(expected, plain, strict=True)
    ]
    assert all(flag for flag, known in zip(flags, plain, strict=True) if not known)


@compiled
def test_paths_that_are_none() -> None:
    """It fails, or lets them through."""
    with pytest.raises(TypeError):
        native.may_hold(memoryview(b"/x")[:1], b"x", False, 0, 0.0)
    with pytest.raises(TypeError):
        native.may_hold_in_order(("/x",), b"x", False, 0)
    assert native.may_hold_in_order([b"/x", "x"], b"y", False, 0) == b"\1\0"
    assert native.may_hold_in_order(["x", ""], b"y", False, 1) == b"\0\1"
    assert native.may_hold_in_order([], b"y", False, 1) == b""
