"""What is told of a ranking, over HTTP and over MCP."""

from typing import Final

from sandbox_api.api.schemas.codegen import RankedFile
from sandbox_api.core.codegen.codegen import Ranking

DEFAULT_THRESHOLD: Final = 0.5
DEFAULT_TOKENS: Final = 30_000


def ranking_message(ranking: Ranking) -> str:
    """How many files fit, and whether not all were ranked."""
    message = "No files found matching criteria"
    if ranking.sent:
        message = f"Found {len(ranking.files)} relevant files"
    if ranking.truncated:
        message = f"{message}; the directory holds more than the {ranking.sent} that were ranked"
    return message


def told_files(ranking: Ranking) -> list[RankedFile]:
    """The files that fit, in the order of the provider."""
    return [
        RankedFile(path=one.document.name, content=one.document.content, score=one.score)
        for one in ranking.files
    ]
