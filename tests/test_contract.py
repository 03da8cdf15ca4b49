"""openapi.yml, the route table and the wire models say the same, both ways."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

import sandbox_api
from sandbox_api.api import schemas
from sandbox_api.api.schemas.base import WireModel
from sandbox_api.app import create_app
from sandbox_api.settings import Settings

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
DOCUMENT: Json = yaml.safe_load((ROOT / "openapi.yml").read_text())
METHODS = ("get", "head", "post", "put", "patch", "delete")


def resolve(node: Json) -> Json:
    """What a `$ref` within the document points to."""
    while "$ref" in node:
        found: Json = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def operations() -> Iterator[tuple[str, str, Json]]:
    """Every operation as method, path and description."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def models() -> dict[str, type[WireModel]]:
    """Every wire model by its name."""
    for module in pkgutil.iter_modules(schemas.__path__):
        importlib.import_module(f"{schemas.__name__}.{module.name}")
    pending, found = [WireModel], {}
    while pending:
        for model in pending.pop().__subclasses__():
            found[model.__name__] = model
            pending.append(model)
    return {
        name: model
        for name, model in found.items()
        if model.__module__.startswith(f"{schemas.__name__}.")  # other tests have their own
    }


MODELS = models()


def model_schema(name: str) -> Json:
    mode = "validation" if name.endswith("Request") else "serialization"
    return MODELS[name].model_json_schema(mode=mode)  # type: ignore[arg-type]


def test_version_is_the_daemons() -> None:
    """A client that reads the contract knows which daemon it is of."""
    assert DOCUMENT["info"]["version"] == sandbox_api.__version__


def test_routes_are_the_documents() -> None:
    """No route without its description, no description without its route."""
    app = create_app(Settings())
    served = {
        (route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None
    }
    assert served == {(method, path) for method, path, _ in operations()}


def test_path_parameters_are_described() -> None:
    """Each name in braces is a parameter of that path, and no other is."""
    for path, item in DOCUMENT["paths"].items():
        described = {resolve(parameter)["name"] for parameter in item.get("parameters", ())}
        assert described == set(re.findall(r"\{(\w+)\}", path)), path


def test_operation_names_are_unique() -> None:
    """Generated clients make a function of each."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


def test_models_are_the_documents() -> None:
    """Each model is described under its own name, and each description has its model."""
    assert set(MODELS) == set(DOCUMENT["components"]["schemas"])


def kinds(schema: Json) -> set[str]:
    """What a schema allows: JSON types (`{"string", "null"}`) or the name of another schema."""
    if "$ref" in schema:
        return {schema["$ref"].rsplit("/", 1)[1]}
    if "anyOf" in schema:
        return {kind for part in schema["anyOf"] for kind in kinds(part)}
    if schema.get("type") == "array":
        return {f"array of {kind}" for kind in kinds(schema["items"])}
    found = schema.get("type", "any")
    return {found} if isinstance(found, str) else set(found)


def values(schema: Json) -> set[str]:
    """The values of an enumeration; empty where all are allowed."""
    return set(schema["enum"]) if "enum" in schema else {schema["const"]} - {None}


def always_there(name: str) -> set[str]:
    """The fields of a request that must be sent, or of a reply that always come."""
    schema = model_schema(name)
    if name.endswith("Request"):
        return set(schema.get("required", ()))
    return set(schema["properties"]) - left_out(name)


def left_out(name: str) -> set[str]:
    """The fields of a reply that are not there when they say nothing."""
    fields = MODELS[name].model_fields.values()
    return {str(info.serialization_alias) for info in fields if info.exclude_if}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fields_are_the_documents(name: str) -> None:
    """Names, types and which are always there: what a typed client is generated from."""
    ours, described = model_schema(name), DOCUMENT["components"]["schemas"][name]
    fields = described["properties"]
    assert ours["properties"].keys() == fields.keys()
    for field, schema in ours["properties"].items():
        ours_kinds = kinds(schema) - ({"null"} if field in left_out(name) else set())
        assert ours_kinds == kinds(fields[field]), field
        if {"enum", "const"} & schema.keys():
            assert values(schema) == values(fields[field]), field
    assert always_there(name) == set(described.get("required", ()))


def validate(schema: Json, value: object) -> None:
    """`value` is what `schema` says; references lead into the document.

    Raises:
        jsonschema_rs.ValidationError: it is not.
    """
    whole = {**schema, "components": {"schemas": DOCUMENT["components"]["schemas"]}}
    jsonschema_rs.Draft202012Validator(whole).validate(value)


def bodies(operation: Json) -> Iterator[tuple[str, str, Json]]:
    """Every body of an operation: status or `request`, content type, description."""
    for content_type, body in resolve(operation.get("requestBody", {})).get("content", {}).items():
        yield "request", content_type, body
    for status, response in operation["responses"].items():
        for content_type, body in resolve(response).get("content", {}).items():
            yield status, content_type, body


OPERATIONS = [pytest.param(*each, id=f"{each[0]} {each[1]}") for each in operations()]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_bodies_have_examples_that_hold(method: str, path: str, operation: Json) -> None:
    """Whoever copies an example gets something that works."""
    for status, content_type, body in bodies(operation):
        where = f"{method} {path} {status} {content_type}"
        examples = [resolve(example)["value"] for example in body.get("examples", {}).values()]
        assert examples, f"{where} has no example"
        for example in examples:
            validate(body["schema"], example)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_parameters_and_headers_have_examples_that_hold(
    method: str, path: str, operation: Json
) -> None:
    """The same for what is not in a body."""
    fields = [*DOCUMENT["paths"][path].get("parameters", ()), *operation.get("parameters", ())]
    for response in operation["responses"].values():
        fields.extend(resolve(response).get("headers", {}).values())
    for field in map(resolve, fields):
        assert "example" in field, f"{method} {path}: {field}"
        validate(field["schema"], field["example"])


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_errors_are_json(method: str, path: str, operation: Json) -> None:
    """Every failure has the one shape; only what is no route is plain text; HEAD has no body."""
    for status, response in operation["responses"].items():
        content = resolve(response).get("content", {})
        if method == "HEAD":
            assert content == {}, f"{status}: HEAD has no body"
        elif status >= "400" and not (path.endswith("{asset}") and status == "404"):
            assert content["application/json"]["schema"] == {
                "$ref": "#/components/schemas/ErrorReply"
            }, status


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_access_errors_are_described(method: str, path: str, operation: Json) -> None:
    """401 and 403 come before every handler but those of /health."""
    expected = {"401", "403"} if path != "/health" else set()
    assert {"401", "403"} & set(operation["responses"]) == expected
