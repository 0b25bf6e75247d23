"""Tenant isolation: permission to read and change, and the metrics that a caller can see."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, Gauge

import drw
from drw.kernel import tenancy
from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.http import metrics_page
from drw.kernel.tenancy import PLATFORM, Owner

ORG, DESK, ELSEWHERE = Owner("acme"), Owner("acme", "research"), Owner("other", "research")
OWNERS = {"own desk": DESK, "own org": ORG, "other desk": Owner("acme", "rates"), "other org": ELSEWHERE}
OWNERS |= {"other org as a whole": Owner("other"), "platform": PLATFORM}
MAY_READ = {
    "": {"own desk", "own org", "platform"},
    "org:admin": {"own desk", "own org", "platform", "other desk"},
    "platform:admin": {"own desk", "own org", "platform", "other org", "other org as a whole"},
}
MAY_CHANGE = {
    "": {"own desk"},
    "org:admin": {"own desk", "own org", "other desk"},
    "platform:admin": {"own desk", "platform", "other org", "other org as a whole"},
}


def principal_with(scope: str = "", desk: str = "research") -> Principal:
    return Principal("acme", desk, "key_1", frozenset({scope, "limits:write"}))


@pytest.mark.parametrize("scope", MAY_READ)
def test_permission_to_read_and_change(scope: str) -> None:
    with acting_for(principal_with(scope)):
        assert {name for name, owner in OWNERS.items() if tenancy.may_read(owner)} == MAY_READ[scope]
        assert {name for name, owner in OWNERS.items() if tenancy.may_change(owner)} == MAY_CHANGE[scope]
        for name, owner in OWNERS.items():
            if name in MAY_CHANGE[scope]:
                tenancy.check_change(owner)
            else:
                with pytest.raises(Forbidden, match=r"(org|platform):admin"):
                    tenancy.check_change(owner)


def test_a_caller_without_a_desk_or_an_org_owns_nothing() -> None:
    for principal, owner in itertools.product(
        (Principal("", "", "key_1"), Principal("acme", "", "key_1")), (PLATFORM, ORG)
    ):
        assert not tenancy.may_change(owner, principal)


def test_only_platform_admins_can_name_another_org() -> None:
    with acting_for(principal_with()):
        assert tenancy.requested_org("") == tenancy.requested_org("acme") == "acme"
        with pytest.raises(Forbidden, match="belongs to the org 'acme', not to 'other'"):
            tenancy.requested_org("other")
    with acting_for(principal_with("platform:admin")):
        assert tenancy.requested_org("other") == "other"


def test_a_tenant_sees_its_own_series_and_those_of_the_platform() -> None:
    series = {
        "one": {"service": "http"},
        "own": {"org": "acme", "desk": "research", "gen_ai_response_model": "m"},
        "desk": {"org": "acme", "desk": "rates", "gen_ai_response_model": "m"},
        "other": {"org": "other", "desk": "research", "gen_ai_response_model": "m"},
        "budget": {"kind": "desk", "org": "acme", "name": "research", "period": "day"},
        "budget of a desk": {"kind": "desk", "org": "acme", "name": "rates", "period": "day"},
        "budget of the org": {"kind": "org", "org": "acme", "name": "", "period": "day"},
        "budget of another": {"kind": "org", "org": "other", "name": "", "period": "day"},
        "budget of a model": {"kind": "model", "org": "", "name": "m", "period": "day"},
        "key": {"org": "acme", "key": "key_1"},
        "another key": {"org": "acme", "key": "key_2"},
        "a key of nobody": {"key": "key_1"},
        "unknown": {"customer": "acme"},
        "a name of what": {"name": "m"},
    }

    def seen(principal: Principal) -> set[str]:
        return {name for name, labels in series.items() if metrics_page.may_see(labels, principal)}

    own = {"one", "own", "budget", "budget of the org", "budget of a model", "key"}
    assert seen(principal_with()) == own
    assert seen(principal_with("org:admin")) == own | {"desk", "budget of a desk"}


def test_internal_scrapes_and_platform_admins_see_all_series() -> None:
    gauge = Gauge("drw_test_of_tenants", "A test.", ["org", "desk"])
    gauge.labels("other", "research").set(4711.2512625)
    gauge.labels("acme", "research").set(42)
    envoy_metrics = b'# TYPE x gauge\nx{org="other"} 1\nx{envoy_cluster_name="a \\"b\\" c"} 2\nx 3\nx{a="\xff"} 4\n'
    envoy_metrics += b"x{a='b'} 5\nbroken\n"
    try:
        for principal in (None, principal_with("platform:admin")):
            with acting_for(principal):
                assert b"4711.2512625" in (page := metrics_page.page(envoy_metrics)) and page.endswith(envoy_metrics)
        with acting_for(principal_with("platform:read")):
            page = metrics_page.page(envoy_metrics)
    finally:
        REGISTRY.unregister(gauge)
    assert b'drw_test_of_tenants{desk="research",org="acme"} 42.0' in page
    assert b"4711.2512625" not in page
    assert page.endswith(b'# TYPE x gauge\nx{envoy_cluster_name="a \\"b\\" c"} 2\nx 3\n')


def test_every_metric_label_is_classified() -> None:
    """Only platform admins see series with other labels: add a new label to one of the sets."""
    labels_in_source = {
        label for file in Path(drw.__file__).parent.rglob("*.py") for label in _labels(ast.parse(file.read_text()))
    }
    assert {"org", "model", "configuration"} <= labels_in_source
    known = metrics_page.PLATFORM_LABELS | metrics_page.TENANT_LABELS | metrics_page.ADMIN_LABELS
    assert labels_in_source <= known | {"name"}


def _labels(tree: ast.Module) -> set[str]:
    named = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = (node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call))
    labels_in_source: set[str] = set()
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in {"Gauge", "Counter", "Histogram"} and len(call.args) > 2:
            parts = list(ast.walk(call.args[2]))
            parts += [
                part
                for name in parts
                if isinstance(name, ast.Name) and name.id in named
                for part in ast.walk(named[name.id])
            ]
            labels_in_source |= {
                part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return labels_in_source
