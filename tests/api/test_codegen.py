"""Edits by an apply model and ranked files, against a local server of their documented form."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api import providers
from tests.providing import Providing, providing

OpenClient = Callable[..., Awaitable[TestClient]]

APPLY, RANK = "/codegen/fastapply", "/codegen/reranking"


@pytest.fixture
async def service() -> AsyncIterator[Providing]:
    async with providing() as one:
        yield one


@pytest.fixture
async def start(app_client: OpenClient, service: Providing) -> OpenClient:
    """`client = await start("morph")`: a daemon that has a key for this service."""

    async def begin(name: str = "relace", **more: object) -> TestClient:
        keys = {f"{name}_api_key": "key", f"{name}_base_url": service.url + "/"}
        return await app_client(**keys, **more)

    return begin


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.mark.parametrize(("method", "path"), [("PUT", f"{APPLY}/a"), ("GET", f"{RANK}/?query=x")])
async def test_without_a_key_it_says_how_to_get_one(
    app_client: OpenClient, method: str, path: str
) -> None:
    """A 400, as clients expect."""
    response = await (await app_client()).request(method, path, json={"codeEdit": "x"})
    assert response.status == 400
    assert (await response.json())["error"].startswith("codegen tools are not configured, follow")


async def test_relace_merges_an_edit(start: OpenClient, service: Providing, work: Path) -> None:
    """The file is written, its mode kept, and both contents are told."""
    client = await start()
    (work / "a.js").write_text("old();\n")
    (work / "a.js").chmod(0o755)
    response = await client.put(f"{APPLY}/a.js", json={"codeEdit": "new();", "model": None})
    assert await response.json() == {
        "success": True,
        "path": "a.js",
        "originalContent": "old();\n",
        "updatedContent": "old();\nnew();\n",
        "provider": "relace",
        "message": "Code edit applied successfully to a.js",
    }
    assert (work / "a.js").read_text() == "old();\nnew();\n"
    assert (work / "a.js").stat().st_mode & 0o777 == 0o755
    body = {
        "initial_code": "old();\n",
        "edit_snippet": "new();",
        "model": "relace-apply-3",
        "stream": False,
    }
    assert service.asked == [("/v1/code/apply", "Bearer key", body)]


async def test_morph_merges_an_edit(start: OpenClient, service: Providing, work: Path) -> None:
    """A new file is made, with what is missing above it; the model is passed on."""
    client = await start("morph")
    url = f"{APPLY}/%2F{str(work)[1:]}/new/b.js"
    response = await client.put(url, json={"codeEdit": "x", "model": "morph-v3-fast"})
    assert (await response.json())["provider"] == "morphllm"
    assert (work / "new" / "b.js").read_text() == "x\n"
    path, key, body = service.asked[0]
    assert (path, key, body["model"]) == ("/chat/completions", "Bearer key", "morph-v3-fast")
    content = "<code></code>\n<update>x</update>"
    assert body["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize("failures", [[429], [500, 503]])
async def test_what_may_help_is_tried_again(
    start: OpenClient, service: Providing, failures: list[int]
) -> None:
    """A service that is busy for a moment is no failure."""
    service.failures = [*failures]
    response = await (await start()).put(f"{APPLY}/a", json={"codeEdit": "x"})
    assert response.status == 200
    assert len(service.asked) == len(failures) + 1


@pytest.mark.parametrize(
    ("failure", "status", "asked"), [(402, 422, 1), (503, 503, 3), (429, 503, 3)]
)
async def test_a_refusal_is_told(
    start: OpenClient, service: Providing, work: Path, failure: int, status: int, asked: int
) -> None:
    """With the service's own words; the file stays as it was."""
    service.failures = [failure] * 9
    (work / "a").write_text("old")
    response = await (await start()).put(f"{APPLY}/a", json={"codeEdit": "x"})
    error = (await response.json())["error"]
    assert (response.status, len(service.asked)) == (status, asked)
    assert error.startswith(f"relace API request failed with status {failure}: ")
    assert "quota" in error
    assert (work / "a").read_text() == "old"


async def test_a_service_that_is_not_there(
    app_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 that says so, and not the key."""
    monkeypatch.setattr(providers, "PAUSES_S", (0, 0))
    client = await app_client(relace_api_key="secret", relace_base_url="http://127.0.0.1:1")
    response = await client.put(f"{APPLY}/a", json={"codeEdit": "x"})
    error = (await response.json())["error"]
    assert response.status == 503
    assert error.startswith("failed to make request to Relace API: ")
    assert "secret" not in error


async def test_a_service_that_does_not_answer_is_given_up(unused_tcp_port: int) -> None:
    """A request has an end."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", unused_tcp_port)
    service = providers.Service("Relace", f"http://127.0.0.1:{unused_tcp_port}", "key", 0.2)
    with pytest.raises(Exception, match=r"no answer within 0\.2 seconds"):
        await service.post("/x", {})
    await asyncio.wait_for(closed.wait(), 5)
    server.close()


@pytest.mark.parametrize("merged", ["", None, 7])
async def test_an_empty_answer_writes_nothing(
    start: OpenClient, service: Providing, work: Path, merged: object
) -> None:
    """The file is not emptied."""
    service.merge = lambda old, edit: merged  # type: ignore[assignment,return-value]
    (work / "a").write_text("old")
    response = await (await start()).put(f"{APPLY}/a", json={"codeEdit": "x"})
    assert response.status == 422
    assert (await response.json())["error"] == "empty merged code returned from Relace API"
    assert (work / "a").read_text() == "old"


async def test_a_change_meanwhile_is_not_overwritten(
    start: OpenClient, service: Providing, work: Path
) -> None:
    """The model has merged into what the file was before."""
    (work / "a").write_text("old")

    def merge(old: str, edit: str) -> str:
        (work / "a").write_text("someone else's")
        return old + edit

    service.merge = merge
    response = await (await start()).put(f"{APPLY}/a", json={"codeEdit": "x"})
    assert response.status == 409
    assert (work / "a").read_text() == "someone else's"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("", {"codeEdit": "x"}, (400, "path is a directory, not a file")),
        ("/a", {}, (400, "invalid request body")),
        ("/a", {"codeEdit": 1}, (400, "invalid request body")),
        ("/binary", {"codeEdit": "x"}, (422, "failed to read file: ")),
        ("/huge", {"codeEdit": "x"}, (422, "too large")),
        ("//dev/null", {"codeEdit": "x"}, (422, "failed to read file: open /dev/null")),
    ],
)
async def test_what_cannot_be_edited(
    start: OpenClient, work: Path, path: str, body: object, expected: tuple[int, str]
) -> None:
    """Is told before anything is sent."""
    (work / "binary").write_bytes(b"\xff\xfe")
    (work / "huge").write_bytes(b"x" * (2 << 20))
    response = await (await start()).put(APPLY + path, json=body)
    assert response.status == expected[0]
    assert expected[1] in (await response.json())["error"]


@pytest.mark.parametrize("name", ["relace", "morph"])
async def test_files_are_ranked(start: OpenClient, work: Path, name: str) -> None:
    """Those over the threshold, with their content, under the path that was asked for."""
    client = await start(name)
    (work / "src").mkdir()
    (work / "src" / "a.js").write_text("the best")
    (work / "src" / "b.js").write_text("not")
    response = await client.get(f"{RANK}/src?query=q&scoreThreshold=0.85&filePattern=%5C.js$")
    assert await response.json() == {
        "success": True,
        "files": [{"path": "src/a.js", "content": "the best", "score": 0.9}],
        "message": "Found 1 relevant files",
        "truncated": False,
    }
    response = await client.get(f"{RANK}/src?query=q&scoreThreshold=0.1")
    assert [one["path"] for one in (await response.json())["files"]] == ["src/a.js", "src/b.js"]
    assert (await client.head(f"{RANK}/src")).status == 200
    assert (await client.head(f"{RANK}/nope")).status == 404


async def test_secrets_are_never_sent(start: OpenClient, service: Providing, work: Path) -> None:
    """Nor hidden or ignored files, nor what is no text, nor what a link leads to."""
    client = await start()
    (work / ".git").mkdir()
    for name in (".env", "prod.env", "id_rsa", "server.key", "Cert.PEM", ".git/config"):
        (work / name).write_text("SECRET")
    (work / ".hidden").mkdir()
    (work / ".hidden" / "a.py").write_text("SECRET")
    (work / "deep" / "node_modules" / "x" / "y").mkdir(parents=True)
    (work / "deep" / "node_modules" / "x" / "y" / "a.js").write_text("SECRET")
    (work / ".gitignore").write_text("ignored.py\n")
    (work / "ignored.py").write_text("SECRET")
    (work / "binary.py").write_bytes(b"SECRET\0")
    (work / "huge.py").write_text("SECRET" * 100_000)
    (work / "link.py").symlink_to("/etc/passwd")
    (work / "a.py").write_text("code")
    assert (await client.get(f"{RANK}/?query=q")).status == 200
    assert [one["filename"] for one in service.asked[0][2]["codebase"]] == ["a.py"]


async def test_nothing_collected_asks_nobody(start: OpenClient, service: Providing) -> None:
    """An empty directory costs nothing."""
    response = await (await start()).get(f"{RANK}/?query=q")
    answer = await response.json()
    assert (answer["files"], answer["message"]) == ([], "No files found matching criteria")
    assert service.asked == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "'RerankingRequest.Query'"),
        ("/?query=q&tokenLimit=abc", "invalid tokenLimit"),
        ("/?query=q&scoreThreshold=abc", "invalid scoreThreshold"),
        ("/?query=q&scoreThreshold=nan", "invalid scoreThreshold"),
        ("/?query=q&filePattern=(", "invalid file pattern regex: unclosed group"),
        ("/nope?query=q", "path is not a directory"),
    ],
)
async def test_bad_queries(start: OpenClient, path: str, text: str) -> None:
    """A 400 that names what is wrong."""
    response = await (await start()).get(RANK + path)
    assert response.status == 400
    assert text in (await response.json())["error"]


async def test_a_pattern_takes_no_exponential_time(start: OpenClient, work: Path) -> None:
    """A pattern that would keep another engine busy for years."""
    (work / ("a" * 200 + "!")).write_text("code")
    client = await start()
    async with asyncio.timeout(10):
        response = await client.get(f"{RANK}/", params={"query": "q", "filePattern": "^(a+)+$"})
    assert (await response.json())["message"] == "No files found matching criteria"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
async def test_g29_what_the_workload_user_cannot_read_is_not_sent(
    start: OpenClient, service: Providing, work: Path, tmp_path: Path
) -> None:
    """Nor does an edit write where that user cannot."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o711)
    client = await start(user="nobody")
    os.chmod(work, 0o755)
    (work / "secret.py").write_text("SECRET")
    (work / "secret.py").chmod(0o600)
    (work / "open.py").write_text("code")
    await client.get(f"{RANK}/?query=q")
    assert [one["filename"] for one in service.asked[0][2]["codebase"]] == ["open.py"]
    for name in ("secret.py", "open.py", "new.py"):
        response = await client.put(f"{APPLY}/{name}", json={"codeEdit": "x"})
        assert response.status == 422, name
    assert (work / "open.py").read_text() == "code"


async def test_keys_are_not_told(
    start: OpenClient, service: Providing, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the log nor in an answer."""
    caplog.set_level("DEBUG")
    service.failures = [503, 402]
    response = await (await start()).put(f"{APPLY}/a", json={"codeEdit": "x"})
    assert "Bearer" not in caplog.text + await response.text()
