"""Searching the content of files."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox_api.core.searches import grep as module
from sandbox_api.core.searches import lines as lines_module
from sandbox_api.core.searches import matching
from sandbox_api.core.searches.expressions import Expression, required_text
from sandbox_api.core.searches.grep import Grep, GrepMatch, GrepQuery
from sandbox_api.core.searches.letters import either_case
from sandbox_api.core.searches.matching import Matcher, literal_matcher
from sandbox_api.core.searches.until import Until
from tests.core.searches.conftest import make

pytestmark = pytest.mark.usefixtures("both")

ENDLESS_S = 1000.0
in_one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def matcher_of(query: GrepQuery) -> Matcher:
    if query.regex:
        return Expression(query.text, case_sensitive=query.case_sensitive)
    return literal_matcher(query.text, case_sensitive=query.case_sensitive)


def run(root: Path, text: str, **more: object) -> tuple[list[GrepMatch], Grep]:
    return search(root, GrepQuery(text=text, **more))  # type: ignore[arg-type]


def search(root: Path, query: GrepQuery) -> tuple[list[GrepMatch], Grep]:
    found: list[GrepMatch] = []
    grep = Grep(str(root), query, matcher_of(query), Until(ENDLESS_S), found.append)
    grep.run()
    return found, grep


def places(root: Path, text: str, **more: object) -> list[tuple[str, int, int]]:
    return [(match.path, match.line, match.column) for match in run(root, text, **more)[0]]


def test_lines_and_columns(tmp_path: Path) -> None:
    """One match for each line, in the order of the walk; columns are characters from 1 on."""
    make(tmp_path, {"b.txt": "x\nİİ hello hello\nhello", "a/c.txt": "HELLO\r\n", "d.txt": "none"})
    assert places(tmp_path, "hello") == [("a/c.txt", 1, 1), ("b.txt", 2, 4), ("b.txt", 3, 1)]
    assert places(tmp_path, "hello", case_sensitive=True) == [("b.txt", 2, 4), ("b.txt", 3, 1)]
    assert run(tmp_path, "HELLO", case_sensitive=True)[0][0].text == "HELLO\r"


def test_letters_of_any_language(tmp_path: Path) -> None:
    """Either case of what is not ASCII; ASCII letters are ASCII letters."""
    make(tmp_path, {"a": "ÉCOLE\nécole\necole\n", "b": "\u212aelvin"})  # the Kelvin sign
    assert places(tmp_path, "école") == [("a", 1, 1), ("a", 2, 1)]
    assert places(tmp_path, "École", case_sensitive=True) == []
    assert places(tmp_path, "kelvin") == []


def test_letters_across_the_edge_of_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long text is looked at in parts, and nothing is lost between two."""
    monkeypatch.setattr(matching, "WINDOW_BYTES", 4)
    make(tmp_path, {"a": "xxxÉcole\nécolexéx\nxxxxxxxé"})
    assert places(tmp_path, "éc") == [("a", 1, 4), ("a", 2, 1)]
    assert places(tmp_path, "é") == [("a", 1, 4), ("a", 2, 1), ("a", 3, 8)]


def test_binary_files(tmp_path: Path) -> None:
    """Skipped unless they are asked for; text that is not UTF-8 is no binary file."""
    make(tmp_path, {"bin": b"\0\1\nneedle\n", "latin": b"caf\xe9 needle\n"})
    assert places(tmp_path, "needle") == [("latin", 1, 6)]
    assert places(tmp_path, "needle", binary=True) == [("bin", 2, 1), ("latin", 1, 6)]
    assert run(tmp_path, "needle")[0][0].text == "caf\ufffd needle"


def test_patterns_and_special_files(tmp_path: Path) -> None:
    """Only regular files are read; links are not followed."""
    make(tmp_path, {"a.py": "needle", "b/c.ts": "needle", "d.md": "needle"})
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "link.py").symlink_to("d.md")
    assert [path for path, _, _ in places(tmp_path, "needle", patterns=["*.py", "b/**"])] == [
        "a.py",
        "b/c.ts",
    ]


def test_limit(tmp_path: Path) -> None:
    """The limit is exact, and `truncated` says whether there was more."""
    make(tmp_path, {"a": "x\n" * 3, "b": "x\n" * 2})
    found, grep = run(tmp_path, "x", limit=4)
    assert ([(m.path, m.line) for m in found], grep.truncated) == (
        [("a", 1), ("a", 2), ("a", 3), ("b", 1)],
        True,
    )
    assert not run(tmp_path, "x", limit=5)[1].truncated
    assert len(run(tmp_path, "x")[0]) == 5


def test_an_answer_is_not_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of matches there is still one of characters."""
    monkeypatch.setattr(module, "MAX_ANSWER", module.MATCH_OVERHEAD + 10)
    make(tmp_path, {"a": "12345 x\n" * 9})
    found, grep = run(tmp_path, "x")
    assert (len(found), grep.truncated) == (2, True)


def test_long_lines_are_cut(tmp_path: Path) -> None:
    """The part around the match is told, with marks where something is missing."""
    make(tmp_path, {"a": "a" * 5000 + "needle" + "b" * 5000, "b": "needle" + "c" * 5000})
    first, second = run(tmp_path, "needle", context_lines=1)[0]
    assert first.column == 5001
    assert first.text.startswith("[... cut ...]aaa")
    assert first.text.endswith("bbb[... cut ...]")
    assert "needle" in first.text
    assert len(first.text) < 2100
    assert second.text.startswith("needleccc")
    assert second.text.endswith("[... cut ...]")
    assert second.context == second.text


def test_context(tmp_path: Path) -> None:
    """The lines around a match with itself, as far as there are any."""
    make(tmp_path, {"a": "1\n2\nx3\n\n5\n6"})
    contexts = [run(tmp_path, "x", context_lines=n)[0][0].context for n in (0, 1, 2, 9)]
    assert contexts == [None, "2\nx3\n", "1\n2\nx3\n\n5", "1\n2\nx3\n\n5\n6"]


def test_unreadable_files_are_counted(tmp_path: Path) -> None:
    """A file that vanished is none of them."""
    make(tmp_path, {"a": "needle"})
    for name in ("b", "c"):
        (tmp_path / name).symlink_to("a")
    found, grep = run(tmp_path, "needle")
    assert (len(found), grep.unreadable) == (1, 0)


def model_lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def model(data: bytes, query: GrepQuery) -> list[tuple[object, ...]]:
    """Line, column, text and context as one would compute them without a thought of speed."""
    forms = [c if query.case_sensitive else either_case(c) for c in query.text]
    pattern = re.compile("".join("[" + re.escape(form) + "]" for form in forms))
    context = query.context_lines
    lines = [line.decode("utf-8", "replace") for line in model_lines(data)]
    return [
        (
            number,
            match.start() + 1,
            line,
            "\n".join(lines[max(0, number - 1 - context) : number + context]) if context else None,
        )
        for number, line in enumerate(lines, 1)
        if (match := pattern.search(line))
    ]


@in_one_directory
@given(
    data=st.lists(st.sampled_from(["a", "b", "A", "é", "É", "\n", "ab", "\r"]), max_size=40),
    query=st.builds(
        GrepQuery,
        text=st.text("abAéÉ", min_size=1, max_size=3),
        case_sensitive=st.booleans(),
        regex=st.booleans(),
        context_lines=st.integers(0, 2),
    ),
    buffer=st.sampled_from([1, 3, 1000]),
)
@example(
    data=list("1\n2\n3\na\n5\n6\n7\na\n9\n"), query=GrepQuery(text="a", context_lines=2), buffer=1
)
@example(data=["\n"] * 3, query=GrepQuery(text="a", context_lines=2), buffer=3)
def test_grep_is_the_simple_model(
    tmp_path: Path, data: list[str], query: GrepQuery, buffer: int
) -> None:
    """However a file is read, in one piece or in many blocks, it has the same matches."""
    content = "".join(data).encode()
    make(tmp_path, {"f": content})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUFFER_BYTES", buffer)
        patch.setattr(module, "BLOCK_BYTES", buffer)
        found, _ = search(tmp_path, query)
    assert [match[2:] for match in found] == model(content, query)


@in_one_directory
@given(
    data=st.lists(st.sampled_from(["a", "b", "é", "\n", "x"]), max_size=60),
    text=st.text("abé", min_size=1, max_size=3),
    case_sensitive=st.booleans(),
    longest=st.integers(8, 20),
)
def test_lines_that_are_too_long_lose_nothing(
    tmp_path: Path, data: list[str], text: str, case_sensitive: bool, longest: int
) -> None:
    """A line that is searched in pieces has its match, once, at its place."""
    content = "".join(data).encode()
    make(tmp_path, {"f": content})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUFFER_BYTES", 4)
        patch.setattr(module, "BLOCK_BYTES", 4)
        patch.setattr(module, "MAX_LINE_BYTES", longest)
        found = places(tmp_path, text, case_sensitive=case_sensitive)
    expected = model(content, GrepQuery(text=text, case_sensitive=case_sensitive))
    assert [(line, column) for _, line, column in found] == [match[:2] for match in expected]


def test_no_match_is_lost_between_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in a line that is too long it stands."""
    for name, value in (("BUFFER_BYTES", 4), ("BLOCK_BYTES", 4), ("MAX_LINE_BYTES", 24)):
        monkeypatch.setattr(module, name, value)
    for before in range(60):
        make(tmp_path, {"f": "x" * before + "needle in hay" + "y" * 40 + "\nneedle in hay"})
        expected = [("f", 1, before + 1), ("f", 2, 1)]
        assert places(tmp_path, "needle in hay") == expected
        assert places(tmp_path, "needle in hay", case_sensitive=True) == expected


def test_context_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lines before and behind a match are not carried along."""
    monkeypatch.setattr(lines_module, "MAX_CONTEXT_BYTES", 10)
    make(tmp_path, {"a": "1" * 50 + "\n2\nx\n4\n" + "5" * 50 + "\n"})
    assert run(tmp_path, "x", context_lines=3)[0][0].context == "2\nx\n4\n" + "5" * 8


@pytest.mark.parametrize(
    ("pattern", "flags", "text"),
    [
        (r"needle_\w+", 0, "needle_"),
        (r"^\s*def (foo|bar)\(", 0, "def "),
        (r"(ab)+cd", 0, "ab"),
        (r"a|b", 0, ""),
        (r"x?yz*", 0, "y"),
        (r"(?:foo)bar", 0, "foobar"),
        (r"(?=ab)c", 0, "c"),
        (r"foo\nlonger", 0, "longer"),
        (r"needle", re.IGNORECASE, "needle"),
        (r"(?i)makes", 0, "ma"),
        (r"éa", re.IGNORECASE, "a"),
        (r"(?i:foo)bar", 0, "bar"),
    ],
)
def test_text_that_every_match_holds(pattern: str, flags: int, text: str) -> None:
    """What saves a look at most files; no match is lost by it."""
    assert required_text(pattern, flags) == text


@pytest.mark.filterwarnings("ignore::FutureWarning")
@given(
    pattern=st.text("ab(|)*+?.kK^$[]\\é", max_size=8),
    line=st.text("abkKé\u212a", max_size=8),
    case_sensitive=st.booleans(),
)
def test_no_match_is_lost_by_the_first_look(pattern: str, line: str, case_sensitive: bool) -> None:
    """A line that matches is found, whatever is looked for first."""
    try:
        plain = re.compile(pattern, 0 if case_sensitive else re.IGNORECASE).search(line)
    except (re.error, RecursionError):
        return
    data = line.encode()
    found = list(Expression(pattern, case_sensitive=case_sensitive).lines(data, 0, len(data)))
    assert bool(found) is bool(plain)


def test_pseudo_files_are_read_to_their_end() -> None:
    """The kernel gives them in pieces, and tells no size."""
    root = Path(f"/proc/{os.getpid()}")
    assert (root / "maps").read_bytes().index(b"[vdso]") > 4096
    assert "maps" in [path for path, _, _ in places(root, "[vdso]", patterns=["maps"])]
