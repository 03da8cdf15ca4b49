"""What a service offers that merges edits and ranks files; `api/providers.py` has the real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is ranked.

    Attributes:
        name: the path as the client sees it.
        content: its text.
    """

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """How well one document fits, from 0 to 1."""

    document: Document
    score: float


class Provider(Protocol):
    """A service for both. Its errors are a FailedError, or UnavailableError where trying again
    may help."""

    @property
    def name(self) -> str:
        """As clients know it."""

    @property
    def careful_model(self) -> str:
        """The model for an edit that went wrong."""

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge a sketched edit into a text.

        Args:
            original: the whole text.
            edit: what changes, with comments in place of what stays.
            model: `auto` for the provider's choice.
        """

    async def rank(
        self, query: str, documents: Sequence[Document], token_limit: int
    ) -> Sequence[Ranked]:
        """Rank documents by how well they fit a query.

        Args:
            query: what is looked for.
            documents: at least one.
            token_limit: how much the best ones may hold, in tokens.
        """
