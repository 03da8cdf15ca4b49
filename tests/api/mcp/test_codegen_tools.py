"""Edits over MCP: applied again, and in several places."""

from pathlib import Path

import pytest

from tests.api.mcp.conftest import CallTool
from tests.providing import providing


def edit(file: str, text: str) -> dict[str, str]:
    return {"targetFile": file, "instructions": "I change it", "codeEdit": text}


async def test_an_edit_is_applied_again_to_what_was_before(tool: CallTool, tmp_path: Path) -> None:
    """By the more careful model, and only as long as the file is what the edit left."""
    file = tmp_path / "work" / "f"
    async with providing() as service:
        keys = {"morph_api_key": "k", "morph_base_url": service.url}
        text = await tool("codegenReapply", settings=keys, targetFile="f")
        assert "no edit of f is remembered" in text
        file.write_text("old\n")
        await tool("codegenEditFile", **edit("f", "bad"))
        assert file.read_text() == "old\nbad\n"
        service.merge = lambda old, change: f"{old}good\n"
        assert (await tool("codegenReapply", targetFile="f"))["success"] is True
        assert file.read_text() == "old\ngood\n"
        assert [one[2]["model"] for one in service.asked] == ["auto", "morph-v3-large"]
        file.write_text("someone else's")
        assert "was changed meanwhile" in await tool("codegenReapply", targetFile="f")


async def test_an_edit_that_failed_is_applied_again(tool: CallTool, tmp_path: Path) -> None:
    """That is what it is for."""
    async with providing() as service:
        keys = {"relace_api_key": "k", "relace_base_url": service.url}
        service.failures = [402]
        text = await tool("codegenEditFile", settings=keys, **edit("f", "new"))
        assert text == (
            'failed to apply edit: relace API request failed with status 402: {"error": "quota"}'
        )
        assert (await tool("codegenReapply", targetFile="f"))["success"] is True
    assert (tmp_path / "work" / "f").read_text() == "new\n"


async def test_several_places_at_once(tool: CallTool, tmp_path: Path) -> None:
    """Each region is merged alone; line numbers are those from before."""
    file = tmp_path / "work" / "f"
    async with providing() as service:
        keys = {"relace_api_key": "k", "relace_base_url": service.url}
        service.merge = lambda old, plan: old.upper() + "more\n"
        file.write_text("a\nb\nc\nd\n")
        regions = [
            {"relativeWorkspacePath": "f", "startLine": start, "endLine": end}
            for start, end in ((1, 1), (3, 4))
        ]
        found = await tool("codegenParallelApply", settings=keys, editPlan="p", editRegions=regions)
        assert found["success"] is True
    assert file.read_text() == "A\nmore\nb\nC\nD\nmore\n"


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        (None, "at least one region"),
        ([("f", 0, 1)], "lines 0 to 1"),
        ([("f", 1, 9)], "lines 1 to 2"),
        ([("f", 1, 2), ("f", 2, 2)], "overlap"),
        ([("f", None, 2)], "startLine and endLine are needed"),
        ([("nope", 1, 1)], "no such file"),
    ],
)
async def test_regions_that_are_none(
    tool: CallTool, tmp_path: Path, regions: list[tuple[str, int, int]] | None, text: str
) -> None:
    """Nothing is sent, nothing is written."""
    (tmp_path / "work" / "f").write_text("a\nb\n")
    keys = ("relativeWorkspacePath", "startLine", "endLine")
    named = None if regions is None else [dict(zip(keys, one, strict=True)) for one in regions]
    async with providing() as service:
        service_keys = {"relace_api_key": "k", "relace_base_url": service.url}
        found = await tool(
            "codegenParallelApply", settings=service_keys, editPlan="p", editRegions=named
        )
        assert text in found
        assert service.asked == []
