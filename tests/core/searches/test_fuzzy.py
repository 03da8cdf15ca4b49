"""Finding by some characters of a path, and how well they fit."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.searches.fuzzy import FuzzyMatch, FuzzyQuery, fuzzy
from sandbox_api.core.searches.scoring import Scorer
from sandbox_api.core.searches.until import Outcome, Until
from sandbox_api.core.walk import WalkScope
from tests.core.searches.conftest import make

pytestmark = pytest.mark.usefixtures("both")

ENDLESS_S = 1000.0


def outcome(root: Path, text: str, **query: object) -> Outcome[FuzzyMatch]:
    wanted = FuzzyQuery(text=text, **query)  # type: ignore[arg-type]
    return fuzzy(str(root), wanted, Until(ENDLESS_S))


def found(root: Path, text: str, **query: object) -> list[str]:
    return [match.path for match in outcome(root, text, **query).matches]


def test_order(tmp_path: Path) -> None:
    """Base names, beginnings of words and runs come first; ties by length, then by the walk."""
    make(
        tmp_path,
        {
            "config/other/text.txt": "",
            "src/app/config.py": "",
            "c/o/n/f/i/g.md": "",
            "lib/xconfigx.py": "",
        },
    )
    assert found(tmp_path, "config") == [
        "config",
        "src/app/config.py",
        "config/other",
        "config/other/text.txt",
        "c/o/n/f/i/g.md",
        "lib/xconfigx.py",
    ]


def test_case(tmp_path: Path) -> None:
    """Either case, unless the query has a capital."""
    make(tmp_path, {"App.tsx": "", "app.py": "", "É.md": ""})
    assert sorted(found(tmp_path, "app")) == ["App.tsx", "app.py"]
    assert found(tmp_path, "App") == ["App.tsx"]
    assert found(tmp_path, "é") == ["É.md"]


def test_kinds_patterns_and_limit(tmp_path: Path) -> None:
    """Directories are found too, and patterns count for them as well."""
    make(tmp_path, {"src/main.py": "", "src/main.js": "", ".src/main.py": "", "main": ""})
    kinds = {match.path: match.type for match in outcome(tmp_path, "src").matches}
    assert kinds["src"] == "directory"
    assert kinds["src/main.py"] == "file"
    assert found(tmp_path, "main", patterns=["*.py"], scope=WalkScope(exclude_hidden=True)) == [
        "src/main.py"
    ]
    one = outcome(tmp_path, "main", limit=1)
    assert ([match.path for match in one.matches], one.truncated) == (["main"], True)


def test_the_best_of_many_are_kept(tmp_path: Path) -> None:
    """Candidates are dropped on the way, never a better one for a worse one."""
    make(tmp_path, {f"d{n % 7}/x_{n:04}_axb": "" for n in range(6000)} | {"z/ab": ""})
    assert found(tmp_path, "ab", limit=3)[0] == "z/ab"


def test_mistyped(tmp_path: Path) -> None:
    """Only on request; behind what holds the query, and marked."""
    make(tmp_path, {"src/helpers.py": "", "src/unrelated.txt": "", "hl_e_p_e_r_s": ""})
    assert found(tmp_path, "hlepers") == ["hl_e_p_e_r_s"]
    matches = outcome(tmp_path, "hlepers", approximate=True).matches
    assert [(match.path, match.approximate) for match in matches] == [
        ("hl_e_p_e_r_s", False),
        ("src/helpers.py", True),
    ]
    assert found(tmp_path, "scr/helpres", approximate=True) == ["src/helpers.py"]
    assert found(tmp_path, "hlepers", approximate=True, limit=1) == ["hl_e_p_e_r_s"]


@pytest.mark.parametrize(
    ("query", "path", "score"),
    [("a", "xay", 16), ("app", "xxapp.js", 56), ("app", "a_p_p", 42), ("app", "app.js", 56)],
)
def test_plain_scores(query: str, path: str, score: int) -> None:
    """The reference's numbers (spec/filesystem.md 10)."""
    assert Scorer(query, plain=True).score(path) == score


def test_plain_letters() -> None:
    """Case counts in ASCII; other letters of a path lose case and accent, those of a query none."""
    assert not Scorer("app", plain=True).holds("App.tsx")
    assert Scorer("e", plain=True).holds("caf" + unicodedata.normalize("NFC", "É"))
    assert not Scorer("é", plain=True).holds("café")


def recurrence(query: str, path: str) -> int:
    """The score as spec/filesystem.md 10 describes it, cell by cell."""
    cells, runs = [0] * (len(path) + 1), [0] * (len(path) + 1)
    for row, character in enumerate(query):
        now, now_runs = [0] * (len(path) + 1), [0] * (len(path) + 1)
        gap, begun = False, False
        for place, other in enumerate(path, 1):
            begun = begun or (other == character and (row == 0 or cells[place - 1] > 0))
            left = now[place - 1] - (1 if gap else 3)
            diagonal = 0
            if other == character and begun and (row == 0 or cells[place - 1] > 0):
                run = runs[place - 1] + 1 if row else 1
                diagonal = (cells[place - 1] if row else 0) + 16
                bonus = 4 if run > 1 else 0
                if diagonal + bonus < left:
                    bonus = run = 0
                diagonal += bonus
                now_runs[place] = run
            gap = diagonal < left
            now[place] = max(diagonal, left, 0)
        cells, runs = now, now_runs
    return max(cells)


@given(query=st.text("ab", min_size=1, max_size=4), path=st.text("ab_", max_size=14))
def test_plain_scores_follow_the_recurrence(query: str, path: str) -> None:
    """The quick computation gives what the slow one does."""
    scorer = Scorer(query, plain=True)
    if scorer.holds(path):
        assert scorer.score(path) == recurrence(query, path)


@given(query=st.text(min_size=1, max_size=5), path=st.text(max_size=20))
def test_holding_is_being_a_subsequence(query: str, path: str) -> None:
    """All characters, in order."""
    rest = iter(path)
    expected = all(character in rest for character in query)
    if query != query.lower():  # case counts
        assert bool(Scorer(query).holds(path)) is expected
    elif expected:
        assert Scorer(query).holds(path)
        assert Scorer(query).score(path) > 0
