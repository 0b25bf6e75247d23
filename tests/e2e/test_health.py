"""`drw status`, `drw status --history` and `drw slo` of a running platform."""

from __future__ import annotations

from drw.catalog import BY_NAME
from e2e.platform import Platform
from support.parts import wait_until

BUNDLED = ("smollm2-135m-instruct", "all-minilm-l6-v2")


def test_status_lists_each_model_with_its_last_probe(platform: Platform) -> None:
    def are_probed() -> bool:
        models = {model["model"]: model["probe"] for model in platform.json("status", check=False)["models"]}
        return all(models.get(bundled) in ("answered", "fresh", "busy") for bundled in BUNDLED)  # others add models

    wait_until(are_probed, "the probes of the models", 90)
    text = platform.run("status").stdout
    assert "MODEL" in text and "CIRCUIT" in text


def test_history_has_the_first_state_of_each_service(platform: Platform) -> None:
    def is_complete() -> bool:
        listed = {each["service"] for each in platform.json("status", "--history")}
        return BY_NAME.keys() <= listed

    wait_until(is_complete, "the states", 60)
    (first,) = [t for t in platform.json("status", "serving", "--history") if t["from"] == "STATE_UNSPECIFIED"]
    assert first["service"] == "serving"
    assert "AT (UTC)" in platform.run("status", "--history").stdout
    assert platform.run("status", "serving", check=False).returncode == 2  # only with --history


def test_slo_lists_both_objectives_of_each_service(platform: Platform) -> None:
    slos = platform.json("slo")
    assert [(each["service"], each["objective"]) for each in slos] == [
        (name, objective) for name in BY_NAME for objective in ("availability", "latency")
    ]
    assert [each["window"] for each in slos[0]["burn_rates"]] == ["5m", "1h", "6h", "3d"]
    table = platform.run("slo", "discovery").stdout
    assert "99.95 % available" in table and "BUDGET LEFT" in table
    assert platform.run("slo", "nothing", check=False).returncode == 3
