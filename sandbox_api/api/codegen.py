"""Edits by an apply model, and files ranked by another (spec/mcp-codegen.md 6)."""

import math
from typing import Final

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.audit import audit
from sandbox_api.api.ranking import DEFAULT_THRESHOLD, DEFAULT_TOKENS, ranking_message, told_files
from sandbox_api.api.schemas.codegen import (
    FastApplyReply,
    FastApplyRequest,
    RerankingReply,
)
from sandbox_api.api.wire import (
    CODEGEN,
    FILE_THREADS,
    FILES,
    JSON_TYPE,
    SEARCHES,
    client_path,
    json_reply,
    read_json,
)
from sandbox_api.core.codegen.codegen import NOT_CONFIGURED, RankQuery
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.regular import is_directory_at
from sandbox_api.errors import InvalidError

APPLY_PREFIX: Final = "/codegen/fastapply"
RANK_PREFIX: Final = "/codegen/reranking"
_REST = r"/{path:[\s\S]*}"  # names may hold line breaks


async def fast_apply(request: web.Request) -> web.Response:
    """Merge an edit into a file."""
    _require_key(request)
    location = _location(request, APPLY_PREFIX)
    if await request.app[FILE_THREADS].run(is_directory_at, location):
        raise InvalidError("path is a directory, not a file")
    wanted = await read_json(request, FastApplyRequest)
    audit(request, "codegen_apply", path=location.absolute)
    applied = await request.app[CODEGEN].apply(location, wanted.code_edit, wanted.model)
    shown = printable(location.shown)
    reply = FastApplyReply(
        success=True,
        path=shown,
        original_content=applied.original,
        updated_content=applied.updated,
        provider=applied.provider,
        message=f"Code edit applied successfully to {shown}",
    )
    return json_reply(reply)


async def rerank(request: web.Request) -> web.Response:
    """The files of a directory that fit a question."""
    _require_key(request)
    text = request.query.get("query", "")
    if not text:
        raise InvalidError(
            "Key: 'RerankingRequest.Query' Error:Field validation for 'Query' failed on the "
            "'required' tag"
        )
    wanted = RankQuery(
        text=text,
        threshold=_threshold(request) or DEFAULT_THRESHOLD,
        token_limit=query.number(request, "tokenLimit", 0) or DEFAULT_TOKENS,
        pattern=request.query.get("filePattern", ""),
    )
    location = _location(request, RANK_PREFIX)
    if not await request.app[FILE_THREADS].run(is_directory_at, location):
        raise InvalidError("path is not a directory")
    audit(request, "codegen_rank", path=location.absolute)
    ranking = await request.app[CODEGEN].rank(location, wanted)
    reply = RerankingReply(
        success=True,
        files=told_files(ranking),
        message=ranking_message(ranking),
        truncated=ranking.truncated,
    )
    return json_reply(reply)


async def head_rerank(request: web.Request) -> web.Response:
    """Only whether the directory is there."""
    await request.app[SEARCHES].check(_location(request, RANK_PREFIX))
    return web.Response(headers={"Content-Type": JSON_TYPE})


def _require_key(request: web.Request) -> None:
    if not request.app[CODEGEN].enabled:
        raise InvalidError(NOT_CONFIGURED)


def _location(request: web.Request, prefix: str) -> Location:
    return request.app[FILES].resolve(client_path(request, prefix))


def _threshold(request: web.Request) -> float:
    text = request.query.get("scoreThreshold", "")
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidError(f"invalid scoreThreshold: '{text:.40}' is no number")
    return value


ROUTES = (
    web.put(APPLY_PREFIX + _REST, fast_apply),
    web.get(RANK_PREFIX + _REST, rerank, allow_head=False),
    web.head(RANK_PREFIX + _REST, head_rerank),
)
