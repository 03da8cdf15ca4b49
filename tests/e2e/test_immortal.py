"""What the snapshot holds is never freed, and so not counted: see docs/packaging.md."""

import json
from pathlib import Path

import pytest

from tests.e2e.checker import Check
from tests.e2e.roots import IS_PLAIN, needs_binary

pytestmark = [
    pytest.mark.slow,
    needs_binary,
    pytest.mark.skipif(IS_PLAIN, reason="of the snapshot only"),
]

# What the daemon's modules hold.
BEGIN = """
import gc, json, sys, types
import sandbox_api.app

def is_immortal(one):
    return sys.getrefcount(one) > 1 << 32

modules = [module for name, module in sys.modules.items() if name.startswith("sandbox_api")]
held = [one for module in modules for one in vars(module).values()]
code = [one.__code__ for one in held if isinstance(one, types.FunctionType)]
"""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(tmp_path)


def test_what_is_in_the_snapshot_is_immortal(check: Check) -> None:
    """Down to the names and constants of code; what is made later is not."""
    text = """
parts = [part for one in code for part in (one.co_name, *one.co_names, *one.co_consts)]
mortal = [repr(one) for one in held + code + parts if not is_immortal(one)]
new = [is_immortal(one) for one in ([], object(), "".join("ab"), lambda: 0)]
print(json.dumps([len(held), len(parts), mortal, new]))
"""
    count, parts, mortal, new = json.loads(check(BEGIN + text))
    assert count > 5000
    assert parts > 5000
    assert mortal == []
    assert new == [False] * 4


def test_their_counts_stay(check: Check) -> None:
    """To use them is not to write to them; the compiled parts in Rust count, and get nowhere."""
    text = """
from sandbox_api.api.schemas.base import PathReply
before = [sys.getrefcount(one) for one in held + code]
uses = [one for _ in range(100) for one in held + code]
repeated = [([one] * 9, [one, one] * 9, (one,) * 9, (one, one) * 9) for one in held + code]
changed = sum(sys.getrefcount(one) != count for one, count in zip(held + code, before))
for _ in range(100_000):
    PathReply.model_validate({"path": "x", "message": "y"})
print(changed, min(map(sys.getrefcount, held + code)) > 1 << 59)
"""
    assert check(BEGIN + text) == "0 True"


def test_a_dict_that_comes_to_hold_itself_is_no_garbage(check: Check) -> None:
    """What the collector did not look at when the snapshot was made, it looks at from then on."""
    text = """
untracked = [one for one in held if type(one) is dict and not gc.is_tracked(one)]
for one in untracked:
    one["list"] = [one]
tracked = sum(map(gc.is_tracked, untracked))
for generation in (0, 1, 2, 2, 2):
    gc.collect(generation)
whole = sum(one["list"][0] is one for one in untracked)
print(json.dumps([len(untracked), tracked, whole]))
"""
    count, tracked, whole = json.loads(check(BEGIN + text))
    assert count > 10
    assert tracked == whole == count
