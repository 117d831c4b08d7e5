"""One definition of every key: its sentence, limits and default, for reader and editors alike."""

import json
from typing import Annotated

import pytest
import tomlkit

from emcfsys_engine.project_tables import TABLES, bare, json_schema


def test_every_key_of_the_schema_has_a_sentence() -> None:
    definitions = json_schema()["$defs"]
    assert definitions
    for table, definition in definitions.items():
        for key, said in definition["properties"].items():
            if table == "SlurmSettings" or "$ref" in said:
                continue
            assert said.get("description") or any(
                one.get("description") for one in said.get("anyOf", ())
            ), f"{table}.{key}"


def test_unknown_keys_are_refused_by_editors_too() -> None:
    assert all(
        definition["additionalProperties"] is False
        for definition in json_schema()["$defs"].values()
    )


def test_defaults_of_the_schema_can_be_written_as_toml() -> None:
    for definition in json_schema()["$defs"].values():
        for key, said in definition["properties"].items():
            if "default" in said:
                default = json.loads(json.dumps(said["default"]))
                assert tomlkit.parse(tomlkit.dumps({key: default})).unwrap() == {key: default}


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_table_without_keys_is_the_default_where_it_may_be_left_out(table: str) -> None:
    if table != "project":
        TABLES[table]()


def test_a_type_is_bare_without_its_limits() -> None:
    assert bare(Annotated[Annotated[int, "limit"], "sentence"]) is int
