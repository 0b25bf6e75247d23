"""Unmodified clients of the Open Inference Protocol, tritonclient and kserve, through the data plane."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drw.demo import volatility
from e2e.platform import Platform
from support.parts import short_folder

CLIENTS = Path(sys.prefix) / "share" / "clients" / "inference" / "bin" / "python"
SCRIPTS = Path(__file__).parent / "inference_clients"

pytestmark = pytest.mark.skipif(not CLIENTS.exists(), reason="`make .venv/clients` installs the clients")


@pytest.fixture(scope="module")
def served() -> Iterator[Platform]:
    """A platform with the model of the worked example."""
    with short_folder() as folder:
        model = volatility.export(volatility.fit(volatility.generate_returns()[0]), folder / "volatility").parent
        platform = Platform(folder / "data")
        platform.data.mkdir()
        (platform.data / "drw.toml").write_text(
            "[services.discovery.models.volatility]\n"
            f'kind = "predictive"\nengine = "onnx"\nfolder = "{model}"\nmax_batch = 8\n'
        )
        try:
            platform.run("up", "--detach", "--port", "0")
            yield platform
        finally:
            platform.run("down")


@pytest.fixture(scope="module")
def run(served: Platform) -> Callable[[str], Any]:
    """Run a script with the clients, and return the JSON that it prints."""

    def call(script: str) -> Any:
        credentials = served.credentials
        arguments = [str(CLIENTS), str(SCRIPTS / script), credentials["url"], credentials["api_key"]]
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(result.stdout.splitlines()[-1])

    return call


def expected() -> list[float]:
    """Return the forecasts of the scripts' returns, as NumPy computes them."""
    coefficients = volatility.fit(volatility.generate_returns()[0])
    returns = np.linspace(-0.02, 0.02, 3 * volatility.MONTH).reshape(3, volatility.MONTH)
    return np.maximum(0, volatility.features(returns) @ coefficients).tolist()


@pytest.mark.parametrize("script", ["triton_http.py", "triton_grpc.py", "kserve_clients.py"])
def test_unmodified_client(run: Callable[[str], Any], script: str) -> None:
    result = run(script)
    forecasts = result.pop("forecasts")
    assert forecasts
    for name, forecast in forecasts.items():
        np.testing.assert_allclose(forecast, expected(), rtol=1e-4, err_msg=name)
    assert all(result.values()), result


def test_command_line(served: Platform) -> None:
    row = json.dumps([np.linspace(-0.02, 0.02, volatility.MONTH).tolist()])
    output = served.json("infer", "volatility", "--input", f"returns={row}")["outputs"][0]
    assert output["shape"] == [1, 1]
    served.run("models", "unload", "volatility")
    assert [entry["state"] for entry in served.json("models", "loaded")] == ["UNAVAILABLE"]
    served.run("models", "load", "volatility")
    assert [entry["state"] for entry in served.json("models", "loaded")] == ["READY"]
    wrong = served.run("infer", "volatility", "--input", "returns=[[1]]", check=False)
    assert wrong.returncode != 0 and "[-1, 22]" in wrong.stderr
