"""Edits that a model merges, and files that a model ranks."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sandbox_api.core.codegen.documents import collect_documents
from sandbox_api.core.codegen.provider import Document, Provider, Ranked
from sandbox_api.core.conditions import Condition
from sandbox_api.core.edits import Edits, Snapshot
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.refusals import attempt, operation
from sandbox_api.core.searches.searches import Searches
from sandbox_api.core.searches.until import Until
from sandbox_api.errors import (
    ConflictError,
    FailedError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    SandboxError,
)

NOT_CONFIGURED: Final = (
    "codegen tools are not configured, follow this documentation to configure it: "
    "https://docs.blaxel.ai/Sandboxes/Codegen"
)
DEFAULT_MODEL: Final = "auto"
MAX_EDIT_BYTES: Final = 1 << 20
MOST_REMEMBERED: Final = 10
MOST_REGIONS: Final = 50


@dataclass(frozen=True, slots=True)
class Applied:
    """An edit that was merged and written.

    Attributes:
        original: the file before it.
        updated: the file after it.
        provider: who merged it.
    """

    original: str
    updated: str
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankQuery:
    """Which files of a directory are wanted.

    Attributes:
        text: what they are wanted for.
        threshold: the least score, from 0 to 1.
        token_limit: how much they may hold, in tokens.
        pattern: a regular expression for their names; empty for all.
    """

    text: str
    threshold: float
    token_limit: int
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Files that fit, the best first as the provider has them.

    Attributes:
        files: those over the threshold.
        sent: how many were ranked.
        truncated: whether there were more that were not.
    """

    files: list[Ranked]
    sent: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Region:
    """Lines of a file, both inclusive and counted from 1."""

    location: Location
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    original: str
    updated: str
    edit: str


class Codegen:
    """The services that merge and rank, as far as there is a key for one.

    Args:
        provider: the service; None where there is no key.
        edits: reads and writes files.
        searches: walks directories.
    """

    def __init__(self, provider: Provider | None, edits: Edits, searches: Searches) -> None:
        self._provider = provider
        self._edits = edits
        self._searches = searches
        self._last: OrderedDict[str, _Remembered] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether there is a key."""
        return self._provider is not None

    async def apply(self, location: Location, edit: str, model: str = "") -> Applied:
        """Merge a sketched edit into a file; one that does not exist is made.

        Args:
            location: the file.
            edit: what changes, with comments in place of what stays.
            model: the provider's; empty for its choice.

        Raises:
            InvalidError: there is no key, or it is a directory.
            FailedError: the file cannot be read or written, or the provider refused.
            UnavailableError: the provider does not answer; trying again may work.
            ConflictError: the file was changed meanwhile.
        """
        provider = self._require()
        before = await self._read(location, missing=True)
        original = _text(before.data, location)
        remembered = _Remembered(original, original, edit)
        self._remember(location, remembered)
        updated = await provider.apply(original, edit, model or DEFAULT_MODEL)
        await self._write(location, updated, before.condition)
        self._remember(location, _Remembered(original, updated, edit))
        return Applied(original, updated, provider.name)

    async def reapply(self, location: Location) -> Applied:
        """Merge the last edit of a file once more, into what the file was before it, by the
        provider's most careful model.

        Raises:
            NotFoundError: no edit of this file is remembered.
            ConflictError: the file was changed since.
        """
        provider = self._require()
        last = self._last.get(location.absolute)
        if last is None:
            raise NotFoundError(
                f"no edit of {printable(location.shown)} is remembered; make one with "
                "codegenEditFile first"
            )
        before = await self._read(location, missing=True)
        if _text(before.data, location) not in {last.original, last.updated}:
            raise _changed(location)
        updated = await provider.apply(last.original, last.edit, provider.careful_model)
        await self._write(location, updated, before.condition)
        self._remember(location, _Remembered(last.original, updated, last.edit))
        return Applied(last.original, updated, provider.name)

    async def apply_to_regions(self, edit: str, regions: Sequence[Region]) -> int:
        """Merge one edit into several regions; a file is changed in all of its regions or in none.

        Returns:
            How many files were changed.

        Raises:
            InvalidError: regions overlap, or lie outside of their file.
            FailedError, UnavailableError, ConflictError: as in `apply`; the text says which files
                were changed before.
        """
        self._require()
        if len(regions) > MOST_REGIONS:
            raise InvalidError(f"{len(regions)} regions are over the limit of {MOST_REGIONS}")
        by_file: dict[str, list[Region]] = {}
        for region in regions:
            by_file.setdefault(region.location.absolute, []).append(region)
        for done, of_file in enumerate(by_file.values()):
            try:
                await self._apply_in_file(edit, of_file)
            except SandboxError as exc:
                text = f"{exc.message} ({done} of {len(by_file)} files were changed before)"
                raise type(exc)(text, exc.fields) from exc
        return len(by_file)

    async def _apply_in_file(self, edit: str, regions: Sequence[Region]) -> None:
        provider, location = self._require(), regions[0].location
        before = await self._read(location)
        lines = _text(before.data, location).splitlines(keepends=True)
        _check_regions(regions, len(lines))
        for region in sorted(regions, key=lambda one: one.start, reverse=True):
            old = "".join(lines[region.start - 1 : region.end])
            new = await provider.apply(old, edit, DEFAULT_MODEL)
            if old.endswith("\n") and not new.endswith("\n"):
                new += "\n"
            lines[region.start - 1 : region.end] = [new]
        await self._write(location, "".join(lines), before.condition)

    async def rank(self, location: Location, query: RankQuery) -> Ranking:
        """The files of a directory that fit a query.

        Raises:
            InvalidError: there is no key, or the pattern is no regular expression.
            FailedError: the directory cannot be read, or the provider refused.
            UnavailableError: the provider does not answer; trying again may work.
        """
        provider = self._require()

        def run(until: Until) -> tuple[list[Document], bool]:
            with operation("open", location.absolute):
                found = collect_documents(location, query.pattern, until)
            return found.documents, found.truncated

        documents, truncated = await self._searches.run(run)
        if not documents:
            return Ranking([], 0, truncated)
        ranked = await provider.rank(query.text, documents, query.token_limit)
        files = [one for one in ranked if one.score >= query.threshold]
        return Ranking(files, len(documents), truncated)

    def _require(self) -> Provider:
        if self._provider is None:
            raise InvalidError(NOT_CONFIGURED)
        return self._provider

    async def _read(self, location: Location, *, missing: bool = False) -> Snapshot:
        with attempt("failed to read file"):
            return await self._edits.read(location, missing=missing)

    async def _write(self, location: Location, text: str, condition: Condition) -> None:
        try:
            with attempt("failed to write file"):
                await self._edits.write(location, text.encode(), condition)
        except PreconditionError:
            raise _changed(location) from None

    def _remember(self, location: Location, edit: _Remembered) -> None:
        self._last[location.absolute] = edit
        self._last.move_to_end(location.absolute)
        if len(self._last) > MOST_REMEMBERED:
            self._last.popitem(last=False)


def _text(data: bytes, location: Location) -> str:
    shown = printable(location.shown)
    if len(data) > MAX_EDIT_BYTES:
        raise FailedError(
            f"failed to read file: {shown} is over {MAX_EDIT_BYTES} bytes, too large for a model"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FailedError(f"failed to read file: {shown} is no UTF-8 text") from None


def _changed(location: Location) -> ConflictError:
    return ConflictError(
        f"{printable(location.shown)} was changed meanwhile; read it again and repeat the edit"
    )


def _check_regions(regions: Sequence[Region], count: int) -> None:
    last = 0
    for region in sorted(regions, key=lambda one: one.start):
        if not 1 <= region.start <= region.end <= count:
            raise InvalidError(
                f"invalid region of {printable(region.location.shown)}: lines {region.start} to "
                f"{region.end}, while the file has lines 1 to {count}"
            )
        if region.start <= last:
            raise InvalidError(
                f"invalid region of {printable(region.location.shown)}: lines {region.start} to "
                f"{region.end} overlap with another region"
            )
        last = region.end
