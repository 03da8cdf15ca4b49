"""G22 as a property: whatever is sent, broken off, repeated, aborted and restarted, in whatever
order, the file is what the last successful parts say, and nothing else is left."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandbox_api.core.uploads import Part
from sandbox_api.errors import InternalError, NotFoundError
from tests.core.uploads.conftest import KIB4, House, md5

NAMES = ("a", "d/b")
SIZES = (0, 1, KIB4 - 1, KIB4, KIB4 + 1, 3 * KIB4)

numbers = st.integers(1, 4)
sizes = st.sampled_from([KIB4] * 6 + list(SIZES))
told = st.sampled_from(["exact", "with a line break", "not"])


class MultipartSessions(RuleBasedStateMachine):
    """Sessions beside a model of them: dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.model: dict[str, tuple[str, dict[int, tuple[Part, bytes]]]] = {}
        self.files: dict[str, bytes] = {}
        self.stamp = 0

    @initialize()
    def begin(self) -> None:
        self.house = House(Path(self.directory.name))
        self.loop.run_until_complete(self.house.restart())

    def teardown(self) -> None:
        for upload in list(self.model):
            self.loop.run_until_complete(self.house.uploads.abort(upload))
        assert self.house.left_over() == []
        self.loop.run_until_complete(self.house.close())
        self.loop.close()
        self.directory.cleanup()

    def content(self, size: int) -> bytes:
        """Bytes that tell which upload they are of."""
        self.stamp += 1
        return (b"%08d" % self.stamp * (size // 8 + 1))[:size]

    def session(self, choice: int) -> str:
        return list(self.model)[choice % len(self.model)]

    @rule(name=st.sampled_from(NAMES))
    def initiate(self, name: str) -> None:
        upload = self.loop.run_until_complete(self.house.initiate(name))
        self.model[upload] = (name, {})

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0), number=numbers, size=sizes, told=told)
    def send(self, choice: int, number: int, size: int, told: str) -> None:
        upload, data = self.session(choice), self.content(size)
        most = {"exact": size, "with a line break": size + 2, "not": 0}[told]
        part = self.loop.run_until_complete(self.house.send(upload, number, data, max_bytes=most))
        assert (part.etag, part.size) == (md5(data), size)
        self.model[upload][1][number] = (part, data)

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0), numbers=st.lists(numbers, min_size=2, max_size=4), size=sizes)
    def send_together(self, choice: int, numbers: list[int], size: int) -> None:
        upload = self.session(choice)
        contents = [self.content(size) for _ in numbers]

        async def together() -> list[Part]:
            sending = zip(numbers, contents, strict=True)
            return await asyncio.gather(*(self.house.send(upload, n, data) for n, data in sending))

        parts = self.loop.run_until_complete(together())
        stored = self.house.uploads.get(upload).parts
        for part, data in zip(parts, contents, strict=True):
            if stored[part.number] == part:  # of two with one number, the last to end
                self.model[upload][1][part.number] = (part, data)

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0), number=numbers, size=sizes)
    def break_off(self, choice: int, number: int, size: int) -> None:
        async def send() -> None:
            begin = self.house.uploads.begin_part(self.session(choice), number, size + 2)
            async with await begin as writer:
                await writer.write(self.content(size))

        self.loop.run_until_complete(send())

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0), chosen=st.sets(numbers, min_size=1), busy=st.booleans())
    def complete(self, choice: int, chosen: set[int], busy: bool) -> None:
        upload = self.session(choice)
        name, parts = self.model[upload]
        wanted = [parts[number][0] for number in sorted(chosen & parts.keys(), reverse=True)]
        if not wanted:
            return

        async def run() -> None:
            if not busy:
                await self.house.complete(upload, *wanted)
                return
            async with await self.house.uploads.begin_part(upload, 1, KIB4 + 2) as writer:
                await writer.write(self.content(KIB4))
                await self.house.complete(upload, *wanted)
                try:
                    await writer.commit()
                except InternalError:
                    return
                raise AssertionError("a part arrived for a session that had ended")

        self.loop.run_until_complete(run())
        del self.model[upload]
        numbers = sorted(part.number for part in wanted)
        self.files[name] = b"".join(parts[number][1] for number in numbers)

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0))
    def complete_with_a_wrong_etag(self, choice: int) -> None:
        upload = self.session(choice)
        wanted = [(number, "wrong") for number in self.model[upload][1]] or [(1, "wrong")]
        try:
            self.loop.run_until_complete(self.house.uploads.complete(upload, wanted))
        except InternalError:
            return
        raise AssertionError("a wrong etag was accepted")

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0))
    def abort(self, choice: int) -> None:
        upload = self.session(choice)
        self.loop.run_until_complete(self.house.uploads.abort(upload))
        del self.model[upload]

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.house.restart())

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0), number=numbers, size=sizes)
    def kill(self, choice: int, number: int, size: int) -> None:
        """A daemon dies in the middle of a part; what it held is closed, not tidied up."""

        async def die() -> None:
            upload = self.session(choice)
            writer = await self.house.uploads.begin_part(upload, number, size + 2)
            await writer.write(self.content(size))
            await writer.written()
            await self.house.restart(killed=True)
            writer._sink.keep()  # type: ignore[attr-defined] # a PartFile
            await writer.end()

        self.loop.run_until_complete(die())

    @invariant()
    def files_are_what_the_parts_say(self) -> None:
        if not hasattr(self, "house"):
            return
        for name in NAMES:
            assert self.house.content(name) == self.files.get(name)
        known = {session.id: session for session in self.house.uploads.sessions()}
        assert known.keys() == self.model.keys()
        for upload, (_, parts) in self.model.items():
            expected = [parts[number][0] for number in sorted(parts)]
            assert known[upload].sorted_parts() == expected

    @invariant()
    def unknown_sessions_are_unknown(self) -> None:
        if hasattr(self, "house"):
            try:
                self.house.uploads.get("nope")
            except NotFoundError:
                return
            raise AssertionError("a session that was never opened")


TestMultipartSessions = MultipartSessions.TestCase
TestMultipartSessions.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
