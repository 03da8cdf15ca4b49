"""The services that merge edits and rank files: Relace and Morph (spec/mcp-codegen.md 7).

A request is repeated where the service is busy or broken (429, 5xx, no connection), a few times and
within a deadline. What it answers is told, cut; the key is not.
"""

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp.client_exceptions import ClientConnectionError, ClientError, ClientPayloadError
from aiohttp.streams import StreamReader

from sandbox_api.api.outgoing import open_session
from sandbox_api.core.codegen.provider import Document, Provider, Ranked
from sandbox_api.errors import FailedError, SandboxError, UnavailableError

if TYPE_CHECKING:
    from aiohttp.client import ClientSession

log = logging.getLogger("sandbox_api.codegen")

Json = dict[str, Any]

RELACE_URL: Final = "https://models.relace.ai"
MORPH_URL: Final = "https://api.morphllm.com/v1"
DEADLINE_S: Final = 55.0  # clients give up after 60
CONNECT_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 3
PAUSES_S: Final = (0.5, 1.5)
LONGEST_PAUSE_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 32 << 20
SHOWN_CHARACTERS: Final = 500
_OK, _BUSY, _BROKEN = 200, 429, 500


class Service:
    """JSON over HTTPS to one service.

    Args:
        name: for errors.
        url: without a slash at the end.
        key: sent as a bearer token.
        deadline_s: for a request with all its repetitions, in seconds.
    """

    def __init__(self, name: str, url: str, key: str, deadline_s: float = DEADLINE_S) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._key = key
        self._deadline_s = deadline_s

    async def post(self, path: str, body: Mapping[str, object]) -> Json:
        """Send a request, again where that may help.

        Raises:
            FailedError: the service refused it, or its answer cannot be read.
            UnavailableError: it is busy, broken or not reached; trying again later may help.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._post(path, json.dumps(body).encode())
        except TimeoutError:
            raise UnavailableError(
                f"failed to make request to {self.name} API: no answer within "
                f"{self._deadline_s:g} seconds; try again"
            ) from None

    async def _post(self, path: str, body: bytes) -> Json:
        async with await open_session(
            connect_timeout_s=CONNECT_TIMEOUT_S, max_connections=1, use_proxy=True
        ) as session:
            for attempt in range(ATTEMPTS):
                try:
                    return await self._try(session, path, body)
                except _BusyError as exc:
                    if attempt == ATTEMPTS - 1:
                        raise UnavailableError(exc.message) from None
                    pause_s = PAUSES_S[attempt] if exc.pause_s is None else exc.pause_s
                    log.warning("%s; trying again in %g s", exc.message, pause_s)
                    await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
        raise AssertionError("unreachable")

    async def _try(self, session: "ClientSession", path: str, body: bytes) -> Json:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            async with session.post(
                self._url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                answer = await _read(response.content)
                status, after = response.status, response.headers.get("Retry-After", "")
        except (ClientConnectionError, ClientPayloadError) as exc:
            raise _BusyError(f"failed to make request to {self.name} API: {exc}") from exc
        except (ClientError, ValueError) as exc:  # an address that is none, an answer that is none
            raise FailedError(f"failed to make request to {self.name} API: {exc}") from exc
        if status == _OK:
            return _parse(answer)
        shown = answer.decode("utf-8", "replace")[:SHOWN_CHARACTERS]
        text = f"{self.name.lower()} API request failed with status {status}: {shown}"
        if status == _BUSY or status >= _BROKEN:
            raise _BusyError(text, _seconds(after))
        raise FailedError(text)


class _BusyError(SandboxError):
    """Trying again may help, after a pause that the service may have named."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Relace:
    """Relace: a model that merges, a model that ranks."""

    name = "relace"
    careful_model = "relace-apply-3"
    _DEFAULT_MODEL: Final = "relace-apply-3"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def apply(self, original: str, edit: str, model: str) -> str:
        """As in `Provider`."""
        answer = await self._service.post(
            "/v1/code/apply",
            {
                "initial_code": original,
                "edit_snippet": edit,
                "model": self._DEFAULT_MODEL if model == "auto" else model,
                "stream": False,
            },
        )
        merged = answer.get("mergedCode")
        if not isinstance(merged, str) or not merged:
            raise FailedError("empty merged code returned from Relace API")
        return merged

    async def rank(
        self, query: str, documents: Sequence[Document], token_limit: int
    ) -> Sequence[Ranked]:
        """As in `Provider`."""
        answer = await self._service.post(
            "/v2/code/rank",
            {
                "query": query,
                "codebase": [{"filename": one.name, "content": one.content} for one in documents],
                "token_limit": token_limit,
            },
        )
        by_name = {one.name: one for one in documents}
        found = ((item.get("filename"), _score(item, "score")) for item in _items(answer))
        return [
            Ranked(by_name[name], score)
            for name, score in found
            if isinstance(name, str) and name in by_name and score is not None
        ]


class Morph:
    """Morph: the same."""

    name = "morphllm"
    careful_model = "morph-v3-large"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def apply(self, original: str, edit: str, model: str) -> str:
        """As in `Provider`."""
        content = f"<code>{original}</code>\n<update>{edit}</update>"
        answer = await self._service.post(
            "/chat/completions",
            {"model": model, "messages": [{"role": "user", "content": content}], "stream": False},
        )
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise FailedError("no choices returned from Morph API")
        merged = None
        with suppress(TypeError, KeyError):
            merged = choices[0]["message"]["content"]
        if not isinstance(merged, str) or not merged:
            raise FailedError("empty content returned from Morph API")
        return merged

    async def rank(
        self, query: str, documents: Sequence[Document], token_limit: int
    ) -> Sequence[Ranked]:
        """As in `Provider`; the service knows no limit of tokens."""
        answer = await self._service.post(
            "/rerank",
            {
                "model": "morph-rerank-v3",
                "query": query,
                "documents": [one.content for one in documents],
            },
        )
        found = ((item.get("index"), _score(item, "relevance_score")) for item in _items(answer))
        return [
            Ranked(documents[index], score)
            for index, score in found
            if isinstance(index, int) and 0 <= index < len(documents) and score is not None
        ]


def choose_provider(
    relace_key: str, relace_url: str, morph_key: str, morph_url: str
) -> Provider | None:
    """The service that there is a key for, Relace first; None where there is none.

    Args:
        relace_key: empty for none.
        relace_url: empty for the service's own.
        morph_key: empty for none.
        morph_url: empty for the service's own.
    """
    if relace_key:
        return Relace(Service("Relace", relace_url or RELACE_URL, relace_key))
    if morph_key:
        return Morph(Service("Morph", morph_url or MORPH_URL, morph_key))
    return None


async def _read(content: StreamReader) -> bytes:
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is over {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _parse(answer: bytes) -> Json:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FailedError("failed to unmarshal response: a JSON object is expected")
    return value


def _items(answer: Json) -> list[Json]:
    results = answer.get("results")
    if not isinstance(results, list):
        raise FailedError("failed to unmarshal response: it has no results")
    return [item for item in results if isinstance(item, dict)]


def _score(item: Json, key: str) -> float | None:
    value = item.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None
