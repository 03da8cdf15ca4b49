"""Searches over HTTP: what is asked for, and what is answered."""

import os
from pathlib import Path

import pytest

from tests.api.searches.conftest import AppClient, Search
from tests.core.searches.conftest import make

FACTS = {"truncated": False, "timedOut": False, "unreadable": 0}


def paths(answer: object) -> list[str]:
    return [match["path"] for match in answer.json["matches"]]  # type: ignore[attr-defined]


async def test_find(search: Search, tree: Path) -> None:
    """By absolute and by relative path; hidden and excluded names are left out by default."""
    answer = await search("find", tree, patterns="*.py, *.md")
    assert answer.status == 200
    assert answer.json == {
        "matches": [
            {"path": "docs/readme.md", "type": "file"},
            {"path": "src/main.py", "type": "file"},
            {"path": "src/util/helpers.py", "type": "file"},
        ],
        "total": 3,
        **FACTS,
    }
    assert paths(await search("find", "src", patterns="**/*.{py,json}")) == [
        "main.py",
        "util/conf.json",
        "util/helpers.py",
    ]
    assert paths(await search("find", type="directory")) == [".", "docs", "src", "src/util"]


async def test_what_is_left_out(search: Search, tree: Path) -> None:
    """An empty list is the default; a list of nothing excludes nothing."""
    for given in ({}, {"excludeDirs": ""}):
        assert "node_modules/pkg/index.js" not in paths(await search("find", **given))
    assert "node_modules/pkg/index.js" in paths(await search("find", excludeDirs=","))
    shown = paths(await search("find", excludeDirs="docs, src", excludeHidden="1"))
    assert shown == [".hidden/secret.txt", "node_modules/pkg/index.js", "top.txt"]
    (tree / ".gitignore").write_text("*.json\n")
    assert "src/util/conf.json" not in paths(await search("find", gitignore="true"))
    assert "src/util/conf.json" in paths(await search("find", gitignore="1"))


async def test_limits(search: Search, work: Path) -> None:
    """20, 1000 at most, 0 for all; an answer in pieces is one answer."""
    make(work, {f"{n:04}": "x" for n in range(1300)})
    for given, total in (({}, 20), ({"maxResults": ""}, 20), ({"maxResults": "5000"}, 1000)):
        answer = await search("find", **given)
        assert (answer.json["total"], answer.json["truncated"]) == (total, True)
    answer = await search("find", maxResults="0")
    assert paths(answer) == [f"{n:04}" for n in range(1300)]
    assert (answer.json["total"], answer.json["truncated"]) == (1300, False)
    assert (await search("content", query="x")).json["total"] == 100
    assert (await search("content", query="x", maxResults="0")).json["total"] == 1300
    assert (await search("fuzzy", query="1")).json["total"] == 20


async def test_fuzzy(search: Search, tree: Path) -> None:
    """The path is the directory, the query what is looked for."""
    answer = await search("fuzzy", tree, query="helpers", maxResults="1")
    (match,) = answer.json["matches"]
    assert (match["path"], match["type"]) == ("src/util/helpers.py", "file")
    assert isinstance(match["score"], int)
    assert match.keys() == {"path", "score", "type"}
    assert (await search("fuzzy", "src", query="mainpy")).json["matches"][0]["path"] == "main.py"
    assert paths(await search("fuzzy", query="uti", patterns="*.json")) == ["src/util/conf.json"]
    (like,) = (await search("fuzzy", query="hlepers", approximate="true")).json["matches"]
    assert (like["path"], like["approximate"]) == ("src/util/helpers.py", True)


async def test_fuzzy_without_a_query(search: Search, work: Path) -> None:
    """The path is both, as clients of the reference know it (spec/filesystem.md 16, 22)."""
    make(work, {"app/app.js": "", "app/axpxp.txt": "", "app/App.tsx": "", "other/app": ""})
    answer = await search("fuzzy", "app")
    assert answer.json["matches"] == [
        {"path": "app.js", "score": 56, "type": "file"},
        {"path": "axpxp.txt", "score": 42, "type": "file"},
    ]
    for path in ("nope", work / "app"):
        answer = await search("fuzzy", path)
        assert (answer.status, answer.json["matches"], answer.json["total"]) == (200, [], 0)
    for path in ("", ".", "/"):
        answer = await search("fuzzy", path)
        assert answer.status == 400
        assert answer.json["error"].startswith("query parameter is required in path")


async def test_content(search: Search, tree: Path) -> None:
    """Literal and in either case by default; hidden files are searched, excluded ones not."""
    answer = await search("content", tree, query="needle")
    assert answer.json == {
        "query": "needle",
        "matches": [
            {"path": ".hidden/secret.txt", "line": 1, "column": 1, "text": "needle hidden"},
            {"path": "docs/readme.md", "line": 2, "column": 1, "text": "needle three"},
            {"path": "src/main.py", "line": 2, "column": 8, "text": "print('needle one')"},
            {
                "path": "src/util/helpers.py",
                "line": 2,
                "column": 13,
                "text": "    return 'Needle two'",
            },
        ],
        "total": 4,
        **FACTS,
    }
    assert paths(await search("content", query="Needle", caseSensitive="true")) == [
        "src/util/helpers.py"
    ]
    assert paths(await search("content", query="needle", filePattern="*.{md,txt}, x")) == [
        ".hidden/secret.txt",
        "docs/readme.md",
    ]
    assert len(paths(await search("content", query="needle", excludeHidden="true"))) == 3
    (match,) = (await search("content", query="needle three", contextLines="1")).json["matches"]
    assert match["context"] == "# Title\nneedle three"
    nothing = await search("content", query="zzzzz")
    assert nothing.json == {"query": "zzzzz", "matches": [], "total": 0, **FACTS}


async def test_content_by_regular_expression(search: Search, tree: Path) -> None:
    """Only on request; the same answer in the same form."""
    assert paths(await search("content", query="needle .*e")) == []
    answer = await search("content", tree, query=r"needle (one|t.*e)\b", regex="true")
    assert answer.json["total"] == 2
    assert answer.json["matches"][1] == {
        "path": "src/main.py",
        "line": 2,
        "column": 8,
        "text": "print('needle one')",
    }
    answer = await search(
        "content", query="^needle", regex="true", contextLines="1", maxResults="1"
    )
    assert answer.json["matches"][0]["context"] == "needle hidden"
    assert answer.json["truncated"] is True


async def test_names_that_are_not_utf8(search: Search, work: Path) -> None:
    """They are told so that they can be asked for (spec/filesystem.md 15, 32)."""
    make(work, {"d/x": "needle"})
    os.rename(work / "d", os.path.join(os.fsencode(work), b"\xff"))
    for regex in ("", "true"):
        (match,) = (await search("content", query="needle", regex=regex)).json["matches"]
        assert (match["path"], match["rawPath"]) == ("\ufffd/x", "%FF%2Fx")
    (match,) = (await search("find")).json["matches"]
    assert match == {"path": "\ufffd/x", "type": "file", "rawPath": "%FF%2Fx"}
    (match, *_) = (await search("fuzzy", query="x")).json["matches"]
    assert match["rawPath"] == "%FF%2Fx"


@pytest.mark.parametrize(
    ("kind", "path", "query", "status", "text"),
    [
        ("find", "", {"type": "foo"}, 400, "invalid search type: foo"),
        ("find", "", {"maxResults": "-1"}, 400, "invalid maxResults: "),
        ("find", "", {"maxResults": "many"}, 400, "invalid maxResults: "),
        ("find", "", {"patterns": "{a,b}" * 12}, 400, "invalid patterns: "),
        ("find", "nope", {}, 404, "error walking directory: "),
        ("find", "top.txt/x", {}, 422, "error walking directory: "),
        ("find", "a\0b", {}, 400, "invalid path"),
        ("fuzzy", "", {"query": "x", "maxResults": "1.5"}, 400, "invalid maxResults: "),
        ("fuzzy", "nope", {"query": "x"}, 404, "error walking directory: "),
        ("fuzzy", "top.txt", {"query": "x"}, 404, "error walking directory: "),
        ("fuzzy", "", {"query": "x" * 5000}, 400, "invalid query"),
        ("content", "", {}, 400, "query parameter is required"),
        ("content", "", {"query": ""}, 400, "query parameter is required"),
        ("content", "", {"query": "a\nb"}, 400, "invalid query"),
        ("content", "", {"query": "x", "contextLines": "-1"}, 400, "invalid contextLines: "),
        ("content", "", {"query": "x", "maxResults": "-1"}, 400, "invalid maxResults: "),
        ("content", "", {"query": "(", "regex": "true"}, 400, "invalid regular expression: "),
        ("content", "", {"query": "(" * 4000, "regex": "true"}, 400, "invalid regular expression"),
        ("content", "", {"query": "x{5}{6}{", "regex": "true"}, 400, "invalid regular expression"),
        ("content", "nope", {"query": "x"}, 400, "specified directory does not exist: "),
        ("content", "top.txt", {"query": "x"}, 400, "specified directory does not exist: "),
        ("content", "nope", {"query": "x", "regex": "true"}, 400, "specified directory does not"),
        ("content", "top.txt/x", {"query": "x"}, 422, "stat "),
    ],
)
@pytest.mark.usefixtures("tree")
async def test_bad_requests(
    search: Search, kind: str, path: str, query: dict[str, str], status: int, text: str
) -> None:
    """What is wrong is said, with a status that tells whose fault it is."""
    answer = await search(kind, path, **query)
    assert (answer.status, answer.json["error"][: len(text)]) == (status, text)


async def test_bad_patterns_match_nothing(search: Search, tree: Path) -> None:
    """As clients of the reference know it; those beside them count."""
    assert paths(await search("find", patterns="[")) == []
    assert paths(await search("find", patterns="[z-a],*.md")) == ["docs/readme.md"]
    assert paths(await search("content", query="needle", filePattern="[")) == []


@pytest.mark.parametrize("route", ["find", "search", "content-search"])
async def test_head(app_client: AppClient, tree: Path, route: str) -> None:
    """Whether the directory is there; nothing is searched for."""
    client = await app_client()
    for path, status in (("src", 200), ("", 200), ("nope", 404), ("top.txt", 404)):
        async with client.head(f"/filesystem-{route}/{path}") as reply:
            assert (reply.status, await reply.read()) == (status, b""), path


async def test_without_the_last_slash(app_client: AppClient) -> None:
    """The bare route is sent to the working directory's (spec/filesystem.md 1)."""
    client = await app_client()
    async with client.get("/filesystem-find?type=directory", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (
            301,
            "/filesystem-find/?type=directory",
        )
