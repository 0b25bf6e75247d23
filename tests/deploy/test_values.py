"""The JSON schema of the values: refuses what is misspelt or wrong, at every level."""

from __future__ import annotations

import re
from collections.abc import Iterator

import helm_python
import pytest

from deploy.charts import Rendered
from drw.generate.kubernetes import chart
from drw.generate.kubernetes.values import Values
from support.json_types import Json, JsonObject


def object_schemas(node: Json, path: str = "") -> Iterator[tuple[str, JsonObject]]:
    """Yield each schema of an object with its path."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, value in node.items():
            yield from object_schemas(value, f"{path}/{key}")
    elif isinstance(node, list):
        for value in node:
            yield from object_schemas(value, path)


def test_every_object_is_closed_or_a_map_of_one_type() -> None:
    schemas = dict(object_schemas(chart.schema()))
    open_ones = [path for path, schema in schemas.items() if schema.get("additionalProperties") is not False]
    maps = [path for path in open_ones if isinstance(schemas[path].get("additionalProperties"), dict)]
    assert set(open_ones) - set(maps) <= {"/properties/global", "/properties/engines"}
    assert len(schemas) > 30


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"servces": {}}, "servces"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"services": {"servng": {"replicas": 2}}}, "servng"),
        ({"services": {"serving": {"replica": 2}}}, "replica"),
        ({"services": {"serving": {"replicas": "two"}}}, "replicas"),
        ({"services": {"serving": {"replicas": 0}}}, "replicas"),
        ({"services": {"serving": {"resources": {"limits": {"cpu": "1"}}}}}, "cpu"),
        ({"services": {"serving": {"resources": {"requests": {"memory": "1 GB"}}}}}, "memory"),
        ({"services": {"serving": {"calls": ["discovry"]}}}, "calls"),
        ({"services": {"serving": {"secretVariables": [{"variable": "lower", "secret": {}}]}}}, "secretVariables"),
        ({"services": {"log": {"volume": {"accessMode": "ReadOnlyMany"}}}}, "accessMode"),
        ({"postgres": {"secret": {"name": "Upper", "key": "dsn"}}}, "name"),
        ({"postgres": {"dsn": "host=db password=x"}}, "dsn"),
        ({"bus": {"adapter": "rabbit"}}, "adapter"),
        ({"dataPlane": {"replicas": 1}}, "replicas"),
        ({"networkPolicies": {"clientCidrs": ["10.0.0.0"]}}, "clientCidrs"),
        ({"monitoring": {"kind": "prometheus"}}, "kind"),
        ({"engines": {"llama": {"args": []}}}, "image"),
        ({"engines": {"llama": {"image": "x", "gpus": 2}}}, "gpus"),
        ({"settings": {"services": {}}}, "settings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_refused(values: JsonObject, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        Rendered(values)
    assert re.search(rf"\b{named}\b", str(refused.value)), str(refused.value)


def test_image_must_be_named() -> None:
    with pytest.raises(helm_python.HelmError, match=r"image.digest or image.tag is required"):
        Rendered({"image": {"digest": "", "tag": ""}})


def test_defaults_of_the_chart_are_those_of_the_values() -> None:
    assert Values.model_validate(chart.parsed_values()) == Values()


def test_values_of_a_parent_chart_are_accepted() -> None:
    assert Rendered({"global": {"region": "eu"}}).objects
