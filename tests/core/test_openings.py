"""The history of open ports: whoever follows it knows what is open."""

from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core import openings
from sandbox_api.core.openings import History, Holder, Kind, PortEvent
from sandbox_api.core.ports import Place

Seen = dict[Place, frozenset[int]]

FIRST = 1000
PLACES = [Place(protocol, port, "*") for protocol in ("tcp", "udp") for port in (1, 2, 3)]
WEB, OTHER = Place("tcp", 80, "0.0.0.0"), Place("tcp", 81, "127.0.0.1")


def one(inode: int) -> frozenset[int]:
    """A place with one socket."""
    return frozenset({inode})


def update(history: History, seen: Seen, *, watched: bool = True, now: float = 5.0) -> list[str]:
    """Look once; what was told, in short."""
    before = history.number
    history.update(seen, {1: Holder(7, "web", "app", 3.0)}, now, watched=watched)
    events = history.since(before)
    assert events is not None
    return [f"{event.kind.value} {event.opening.place.port}" for event in events]


def test_what_opens_and_closes_is_told_once() -> None:
    """In the order of protocol and port; nothing is told of what stays."""
    history = History(FIRST)
    assert update(history, {OTHER: one(2), WEB: one(1)}) == ["open 80", "open 81"]
    assert update(history, {OTHER: one(2), WEB: one(1)}) == []
    assert update(history, {OTHER: one(2)}) == ["close 80"]
    assert update(history, {}) == ["close 81"]
    assert history.number == FIRST + 4


def test_opened_again_between_two_looks() -> None:
    """None of the sockets is the old one: it was closed meanwhile."""
    history = History(FIRST)
    update(history, {WEB: one(1)})
    assert update(history, {WEB: one(9)}) == ["close 80", "open 80"]


def test_workers_that_come_and_go_do_not_open_a_port_again() -> None:
    """As long as one listens, the port is open."""
    history = History(FIRST)
    update(history, {WEB: one(1)})
    assert update(history, {WEB: frozenset({1, 2})}) == []
    assert update(history, {WEB: one(2)}) == []
    assert update(history, {WEB: frozenset({2, 3})}) == []
    assert history.open[WEB].number == FIRST + 1


def test_since_when() -> None:
    """A port that was seen to open has that time; one that nobody watched has none."""
    history = History(FIRST)
    update(history, {WEB: one(1)}, watched=False)
    assert history.open[WEB].first_seen_at is None
    assert history.open[WEB].holder == Holder(7, "web", "app", 3.0)
    update(history, {WEB: one(1), OTHER: one(2)}, now=6.0)
    assert history.open[OTHER].first_seen_at == 6.0
    assert history.open[OTHER].holder == Holder()


def test_events_that_are_gone() -> None:
    """Too old, or from another daemon: the client has to begin anew."""
    history = History(FIRST)
    for number in range(openings.MAX_EVENTS):
        update(history, {WEB: one(number)} if number % 2 == 0 else {})
    assert history.since(history.number) == ()
    everything = history.since(FIRST)
    assert everything is not None
    assert len(everything) == openings.MAX_EVENTS
    update(history, {WEB: one(-1)})
    assert history.since(FIRST) is None
    assert history.since(FIRST + 1) is not None
    assert history.since(0) is None
    assert history.since(history.number + 1) is None


def follow(known: set[Place], events: list[PortEvent]) -> set[Place]:
    """What a client believes after some events."""
    for event in events:
        if event.kind is Kind.OPEN:
            known = known | {event.opening.place}
        else:
            known = known - {event.opening.place}
    return known


SEEN = st.dictionaries(
    st.sampled_from(PLACES), st.frozensets(st.integers(1, 4), min_size=1, max_size=2)
)


@given(st.lists(SEEN, min_size=1, max_size=30), st.data())
def test_whoever_resumes_knows_what_is_open(looks: list[Seen], data: st.DataObject) -> None:
    """From the state at any moment, and the events after its number; numbers have no gap."""
    history, known, at = History(FIRST), set[Place](), FIRST
    for seen in looks:
        history.update(seen, {}, 1.0, watched=True)
        if data.draw(st.booleans(), "resumes"):
            events = list(history.since(at) or ())
            assert [event.number for event in events] == list(range(at + 1, history.number + 1))
            known, at = follow(known, events), history.number
            assert known == set(seen)
        state = list(history.state(1.0))
        assert follow(set(), state) == set(seen)
        assert [e.number for e in state] == sorted({e.number for e in state})
