"""Request bodies: what is forgiven, what is refused, and what is said."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.wire import PatientDecoder, dump_json, parse_json, read_json
from sandbox_api.errors import InvalidError

AppClient = Callable[..., Awaitable[TestClient]]


class SampleRequest(WireModel):
    """One field of each kind."""

    command: str = Field(default="", min_length=0)
    working_dir: str = ""
    timeout: int = 0
    waiting: bool = False
    env: dict[str, str] = Field(default_factory=dict)


class NeedyRequest(WireModel):
    """Two required texts."""

    drive_name: str = Field(min_length=1)
    mount_path: str = Field(min_length=1)


@pytest.mark.parametrize(
    ("body", "command"),
    [
        (b'{"command": "a"}', "a"),
        (b'{"COMMAND": "a"}', "a"),
        (b'{"command": "a"} and more', "a"),
        (b' \r\n\t{"command": "a"}', "a"),
        (b'{"command": "a", "command": "b"}', "b"),
        (b'{"command": "a", "Command": "b"}', "b"),
        (b'{"command": "a", "unknown": {"x": [1e999, 99999999999999999999]}}', "a"),
        (b'{"command": null}', ""),
        (b"null", ""),
        (b'{"command": "\xff\xc3\xa9"}', "\ufffd\u00e9"),
        (b'{"command": "\\ud800x\\udc00"}', "\ufffdx\ufffd"),
        (b'{"command": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)
def test_what_the_reference_forgives_is_forgiven(body: bytes, command: str) -> None:
    """Case of keys, nulls, trailing bytes, duplicates, broken text (spec/filesystem.md 1)."""
    assert parse_json(body, SampleRequest).command == command


@pytest.mark.parametrize("key", ["workingDir", "workingdir", "WORKINGDIR"])
def test_keys_of_two_words_match_in_any_case(key: str) -> None:
    """The wire's name is camelCase; underscores are not part of it."""
    assert parse_json(json.dumps({key: "/x"}).encode(), SampleRequest).working_dir == "/x"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "EOF"),
        (b"  \n", "EOF"),
        (b'{"command": "a', "unexpected EOF"),
        (b'{"command": ', "unexpected EOF"),
        (b"{", "unexpected EOF"),
        (b"nonsense", "at character 1"),
        (b"[]", "array"),
        (b'"x"', "string"),
        (b"5", "number 5"),
        (b"true", "bool"),
        (b'{"command": 5}', "cannot unmarshal number 5 into field command"),
        (b'{"workingDir": []}', "cannot unmarshal array into field workingDir"),
        (b'{"timeout": "5"}', "cannot unmarshal string into field timeout"),
        (b'{"timeout": 1.0}', "cannot unmarshal number 1.0 into field timeout"),
        (b'{"timeout": 1e3}', "cannot unmarshal number 1000.0 into field timeout"),
        (b'{"timeout": true}', "cannot unmarshal bool into field timeout"),
        (b'{"timeout": 9223372036854775808}', "into field timeout"),
        (b'{"timeout": -9223372036854775809}', "into field timeout"),
        (b'{"timeout": 1' + b"0" * 5000 + b"}", "into field timeout"),
        (b'{"timeout": NaN}', "NaN is not JSON"),
        (b'{"waiting": 1}', "cannot unmarshal number 1 into field waiting"),
        (b'{"env": {"A": 1}}', "cannot unmarshal number 1 into field env"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, said: str) -> None:
    """The stable prefix, then the key, the value and what is expected, without Go's words."""
    with pytest.raises(InvalidError, match=r"\Ainvalid request body: ") as caught:
        parse_json(body, SampleRequest)
    assert said in caught.value.message
    assert "Go struct" not in caught.value.message


def test_missing_texts_are_named_as_clients_know_it() -> None:
    """The pinned text, one line for each; an empty text is missing too."""
    with pytest.raises(InvalidError) as caught:
        parse_json(b'{"mountPath": ""}', NeedyRequest)
    assert caught.value.message == (
        "invalid request body: Key: 'NeedyRequest.DriveName' Error:Field validation for "
        "'DriveName' failed on the 'required' tag\nKey: 'NeedyRequest.MountPath' Error:Field "
        "validation for 'MountPath' failed on the 'required' tag"
    )


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
def test_64_bits_are_a_number(number: int) -> None:
    """The whole range of the reference's integers."""
    assert parse_json(f'{{"timeout": {number}}}'.encode(), SampleRequest).timeout == number


def refusal(body: bytes) -> str:
    """What is said to a body; nothing but InvalidError may come out."""
    try:
        parse_json(body, SampleRequest)
    except InvalidError as exc:
        return exc.message
    return "invalid request body: none"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_refusal(body: bytes) -> None:
    """Bytes that are no JSON, no UTF-8, no text."""
    assert refusal(body).startswith("invalid request body: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["command", "timeout", "env", "x"]), JSON))
def test_any_json_is_a_body_or_a_refusal(value: dict[str, object]) -> None:
    """Whatever the types are."""
    assert refusal(json.dumps(value).encode()).startswith("invalid request body: ")


@given(st.binary(max_size=200))
def test_the_patient_decoder_reads_the_same(body: bytes) -> None:
    """What lets others run in between takes and refuses what the quick one does."""
    outcomes = []
    for decoder in (json.JSONDecoder(), PatientDecoder()):
        try:
            outcomes.append(parse_json(body, SampleRequest, decoder).model_dump_json())
        except InvalidError:
            outcomes.append("")
    assert outcomes[0] == outcomes[1]


def test_the_patient_decoder_tells_doubles() -> None:
    """A key that stands twice would lose one of its values."""
    with pytest.raises(InvalidError, match="the key 'B' stands twice"):
        parse_json(b'{"env": {"A": "1", "B": "2", "B": "3"}}', SampleRequest, PatientDecoder())


def test_replies_are_always_utf8() -> None:
    """File names and output may hold bytes that are no text."""
    assert dump_json({"a": "\udcff"}) == '{"a":"\ufffd"}'.encode()


async def test_a_body_over_the_cap_is_a_413(app_client: AppClient) -> None:
    """Declared or chunked, it is refused with the limit and the way around it."""

    async def echo(request: web.Request) -> web.Response:
        await read_json(request, SampleRequest, "send application/octet-stream")
        return web.Response()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 1000

    routes = [web.post("/echo", echo)]
    client = await app_client(routes=routes, max_json_bytes=10_000)
    for body in (b" " * 20_000, chunks()):
        answer = await client.post("/echo", data=body)
        assert answer.status == 413
        error = (await answer.json())["error"]
        assert "10000" in error
        assert "send application/octet-stream" in error
    assert (await client.post("/echo", data=b"{}" + b" " * 9000)).status == 200
