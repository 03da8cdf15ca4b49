"""Models of tools: what a tool takes and gives, as JSON Schema and as values.

The schemas have the shape that clients of the reference know (spec/mcp-codegen.md 2): no titles, no
defaults, no references, `["null", T]` for what may be null, and nothing that is not named.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.wire import INT64_MAX, INT64_MIN

Json = dict[str, Any]

_DROPPED: Final = frozenset({"title", "default", "$defs", "description"})


def _whole(value: object) -> object:
    """5.0 is an integer in JSON Schema; numbers beyond 64 bits are nobody's."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("it does not fit into 64 bits")
    return value


Integer = Annotated[int, BeforeValidator(_whole)]
OptionalText = Annotated[str, Field(exclude_if=lambda text: not text)]
OptionalFlag = Annotated[bool, Field(exclude_if=lambda flag: not flag)]


class Arguments(WireModel):
    """What a tool takes; what it does not know is refused, another spelling of a name too."""

    model_config = ConfigDict(extra="forbid", validate_by_name=False)


class Result(WireModel):
    """What a tool gives."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class NoArguments(Arguments):
    """For a tool that takes nothing."""


def input_schema(model: type[BaseModel]) -> Json:
    """What a tool takes, as JSON Schema."""
    return _simple(model.model_json_schema(mode="validation"))


def output_schema(model: type[BaseModel]) -> Json:
    """What a tool gives, as JSON Schema."""
    return _simple(model.model_json_schema(mode="serialization"))


def _simple(schema: Json) -> Json:
    return _convert(schema, schema.get("$defs", {}), keep_description=False)


def _convert(node: Json, definitions: Json, *, keep_description: bool = True) -> Json:
    if "$ref" in node:
        described = {"description": node["description"]} if "description" in node else {}
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return {**_convert(target, definitions, keep_description=False), **described}
    if "anyOf" in node:
        node = _nullable(node, definitions)
    found = {key: value for key, value in node.items() if key not in _DROPPED}
    if keep_description and "description" in node:
        found["description"] = node["description"]
    if "properties" in found:
        found["properties"] = {
            name: _convert(item, definitions) for name, item in found["properties"].items()
        }
    if isinstance(found.get("items"), dict):
        found["items"] = _convert(found["items"], definitions)
    if found.get("type") == "object" and "additionalProperties" not in found:
        found["additionalProperties"] = False
    if not found.get("properties", True):
        del found["properties"]
    return found


def _nullable(node: Json, definitions: Json) -> Json:
    """`anyOf` of one thing and null, as one thing that may be null."""
    (one,) = (part for part in node["anyOf"] if part.get("type") != "null")
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    converted = _convert(one, definitions, keep_description=False)
    nullable = {**converted, **rest, "type": ["null", converted["type"]]}
    if "enum" in nullable:
        nullable["enum"] = [None, *nullable["enum"]]
    return nullable


def explain(exc: ValidationError, schema: Json) -> str:
    """Which arguments are wrong, in the words that clients know."""
    problems = [cast("Json", error) for error in exc.errors(include_url=False)]
    parts = [
        *_names(problems, "extra_forbidden", "unexpected additional properties"),
        *_names(problems, "missing", "required: missing properties:"),
        *_types(problems, schema),
    ]
    return 'validating "arguments": validating root: ' + "; ".join(parts)


def _names(problems: Sequence[Json], kind: str, text: str) -> Iterator[str]:
    wrong = [str(one["loc"][-1])[:100] for one in problems if one["type"] == kind]
    if wrong:
        yield f"{text} {json.dumps(wrong, ensure_ascii=False)}"


def _types(problems: Sequence[Json], schema: Json) -> Iterator[str]:
    for one in problems:
        if one["type"] in {"extra_forbidden", "missing"}:
            continue
        location, node = _locate(one["loc"], schema)
        if one["type"].endswith("_type"):
            want = _wanted(node)
            yield (
                f"validating {location}: type: {_shown(one['input'])} has type "
                f'"{_kind(one["input"])}", want {want}'
            )
        else:
            yield f"validating {location}: {str(one['msg']).removeprefix('Value error, ')}"


def _locate(path: Sequence[str | int], schema: Json) -> tuple[str, Json]:
    location, node = "", schema
    for step in path:
        if isinstance(step, int):
            location, node = f"{location}/items", node.get("items", {})
        elif step in node.get("properties", {}):
            location, node = f"{location}/properties/{step}", node["properties"][step]
        else:
            extra = node.get("additionalProperties")
            location = f"{location}/additionalProperties"
            node = extra if isinstance(extra, dict) else {}
    return location, node


def _wanted(node: Mapping[str, Any]) -> str:
    kind = node.get("type", "object")
    return f'"{kind}"' if isinstance(kind, str) else f'one of "{", ".join(kind)}"'


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "a value"
    return json.dumps(value, ensure_ascii=False)[:60]


def _kind(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")
