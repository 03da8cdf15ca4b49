"""A local server that speaks the documented form of Relace and of Morph, and notes what it got."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class Providing:
    """What the services were asked, and what they are to answer.

    Attributes:
        asked: path, Authorization and body of each request.
        failures: statuses that the next requests get instead of an answer.
        url: where it listens.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.failures: list[int] = []
        self.merge: Callable[[str, str], str] = lambda old, edit: f"{old}{edit}\n"
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((request.path, request.headers.get("Authorization", ""), body))
        if self.failures:
            status = self.failures.pop(0)
            return web.json_response(
                {"error": "quota"}, status=status, headers={"Retry-After": "0"}
            )
        return web.json_response(self._answer(request.path, body))

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/code/apply":
            return {"mergedCode": self.merge(body["initial_code"], body["edit_snippet"])}
        if path == "/v2/code/rank":
            names = [
                {"filename": one["filename"], "score": _score(one["content"])}
                for one in body["codebase"]
            ]
            return {"results": names}
        if path == "/chat/completions":
            code, _, update = body["messages"][0]["content"].partition("</code>\n<update>")
            merged = self.merge(code.removeprefix("<code>"), update.removesuffix("</update>"))
            return {"choices": [{"message": {"content": merged}}]}
        scores = map(_score, body["documents"])
        return {"results": [{"index": i, "relevance_score": s} for i, s in enumerate(scores)]}


def _score(content: str) -> float:
    return 0.9 if "best" in content else 0.2


@asynccontextmanager
async def providing() -> AsyncIterator[Providing]:
    """The server, while the context lasts."""
    service = Providing()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", service.answer)
    async with TestServer(app) as server:
        service.url = str(server.make_url("")).rstrip("/")
        yield service
