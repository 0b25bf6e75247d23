"""Time until all data planes reject a revoked key: `python -m bench.revoke [REVOCATIONS] [--planes 2]`.

Each measurement starts with the call that revokes a key, or retires its signing key, and ends with the first 401 on the
last data plane, which is polled meanwhile. It runs on an empty platform, then with 10,000 revoked keys and 10,000
limits, then across a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import LiteralString

import httpx
import psycopg

from bench.support.endless_platform import Platform, make_key, run_platform, summary_line
from bench.support.targets import DRW, run_process, wait_for_http
from drw.agent.delivery import envoy
from drw.kernel.runtime.settings import SettingLayers
from drw.local.preflight import free_port

REVOCATIONS = 100
RETIREMENTS = 10
MANY = 10_000


@contextmanager
def run_second_data_plane(platform: Platform) -> Iterator[str]:
    """Run a second data plane of the platform; yields its address."""
    listen, second_profile = f"127.0.0.1:{free_port('127.0.0.1')}", platform.data / "second.toml"
    second_profile.write_text(
        f'name = "second"\n[data_plane]\nlisten = "{listen}"\nfolder = "{platform.data}/second"\n'
        f'admin = "unix:{platform.data}/second.a"\nmetrics = "unix:{platform.data}/second.m"\n'
    )
    files = [platform.data / "profile.toml", second_profile]
    profile = SettingLayers(files).profile()
    with run_process([sys.executable, "-m", "drw.agent", *map(str, files)], "second-agent.log"):
        while not envoy.ready_file(profile).exists():
            time.sleep(0.1)
        with run_process(envoy.command(profile), "second-envoy.log"):
            wait_for_http(f"http://{listen}/healthz", 20)
            yield f"http://{listen}"


async def first_rejection(url: str, secret: str, revoked: asyncio.Event) -> float:
    """Return the time of the first 401."""
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as client:
        while True:
            status = (await client.get("/v1/models")).status_code
            if status == 401:
                assert revoked.is_set(), "rejected before it was revoked"
                return time.perf_counter()
            assert status == 200, status
            await asyncio.sleep(0.002)


async def measure(operator: httpx.AsyncClient, path: str, secret: str, planes: Sequence[str]) -> float:
    """Return the seconds from this call until every data plane rejects the key."""
    is_called = asyncio.Event()
    rejections = [asyncio.create_task(first_rejection(url, secret, is_called)) for url in planes]
    await asyncio.sleep(0.02)
    started_at = time.perf_counter()
    is_called.set()
    (await operator.post(path)).raise_for_status()
    async with asyncio.timeout(30):
        return max(await asyncio.gather(*rejections)) - started_at


async def revocations(platform: Platform, number: int, planes: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return the seconds of each revocation, and the keys."""
    with platform.api() as api:
        keys = [make_key(api, "research-b", "models:read") for _ in range(number)]
    headers = {"authorization": f"Bearer {platform.operator}"}
    durations = []
    async with httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=60) as operator:
        await wait_until_applied(operator)
        for key, secret in keys:
            durations.append(await measure(operator, f"/api/v1/keys/{key}:revoke", secret, planes))
    return durations, [secret for _, secret in keys]


async def retirements(platform: Platform, number: int, planes: Sequence[str]) -> tuple[list[float], int]:
    """Return the seconds of each retirement, and how often a key revoked just before was accepted."""
    durations, accepted = [], 0
    headers = {"authorization": f"Bearer {platform.operator}"}
    async with httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=60) as operator:
        for _ in range(number):
            kid = (await operator.post("/api/v1/signingKeys:rotate")).raise_for_status().json()["kid"]
            execute(platform, "update authentication.signing_key set signs_from = now() where kid = %s", kid)
            with platform.api() as api:
                (key, revoked), (_, secret) = (make_key(api, "research-b", "models:read") for _ in range(2))
            await wait_until_applied(operator)
            await measure(operator, f"/api/v1/keys/{key}:revoke", revoked, planes)
            watching = [asyncio.create_task(count_accepted(url, revoked)) for url in planes]
            durations.append(await measure(operator, f"/api/v1/signingKeys/{kid}:retire", secret, planes))
            accepted += sum(await asyncio.gather(*watching))
    return durations, accepted


async def count_accepted(url: str, secret: str) -> int:
    """Return how many requests of a revoked key are accepted within two seconds."""
    accepted, deadline = 0, time.perf_counter() + 2
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as client:
        while time.perf_counter() < deadline:
            accepted += (await client.get("/v1/models")).status_code != 401
            await asyncio.sleep(0.002)
    return accepted


async def wait_until_applied(operator: httpx.AsyncClient) -> None:
    """Return once the data plane has applied earlier changes."""
    await asyncio.sleep(5)
    (await operator.get("/v1/models")).raise_for_status()


def fill(platform: Platform) -> None:
    """Add 10,000 revoked keys and 10,000 limits."""
    execute(
        platform,
        "insert into authentication.key (id, name, org, desk, scopes, last_characters, created_at, expires_at,"
        " revoked_at, requests_per_minute) select 'key_' || md5(n::text), 'old', 'local', 'research', '{}', 'x',"
        " now(), now() + interval '90 days', now(), 0 from generate_series(1, %s) n",
        MANY,
    )
    execute(
        platform,
        "insert into rate_limiting.subject_limit"
        " select 'KEY', 'local', 'key_' || md5('l' || n), 'research', 100, 0, 0, 'FIXED', 'LOCAL_SHARE',"
        " now() + interval '90 days'"
        " from generate_series(1, %s) n",
        MANY,
    )
    execute(platform, "notify authentication_changed")
    execute(platform, "notify rate_limiting_changed")


def execute(platform: Platform, query: LiteralString, *args: object) -> None:
    """Run a statement in the platform's database."""
    dsn = tomllib.loads((platform.data / "profile.toml").read_text())["postgres"]
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(query, args)


def count_accepted_after_restart(platform: Platform, secrets: list[str]) -> int:
    """Restart the platform, and return how many of these keys it accepts afterwards."""
    subprocess.run([DRW, "down"], env=platform.env, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [DRW, "up", "--detach", "--port", str(platform.port)], env=platform.env, check=True, stdout=subprocess.DEVNULL
    )
    with platform.api() as api:
        responses = [api.get("/v1/models", headers={"authorization": f"Bearer {secret}"}) for secret in secrets]
    return sum(answer.status_code != 401 for answer in responses)


async def main(number: int, planes: int) -> None:
    aim = "(aim: p99 under 1000 ms)"
    with ExitStack() as stack:
        platform = stack.enter_context(
            run_platform(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drw-bench-"))))
        )
        urls = [platform.url, *(stack.enter_context(run_second_data_plane(platform)) for _ in range(planes - 1))]
        print(f"data planes: {planes}")
        durations, secrets = await revocations(platform, number, urls)
        print(summary_line("revoked", durations, aim), flush=True)
        durations, accepted = await retirements(platform, min(number, RETIREMENTS), urls)
        print(summary_line("what signed it is retired", durations, aim), flush=True)
        print(f"after that {accepted} requests of keys revoked just before are let through (aim: 0)", flush=True)
        fill(platform)
        durations, loaded_secrets = await revocations(platform, number, urls)
        print(summary_line(f"revoked, beside {MANY} revoked and {MANY} limits", durations, aim), flush=True)
        accepted = await asyncio.to_thread(count_accepted_after_restart, platform, secrets + loaded_secrets)
        print(f"after a restart {accepted} of {len(secrets + loaded_secrets)} revoked keys are let through (aim: 0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.revoke", description="How fast a revocation reaches the data planes.")
    parser.add_argument("number", nargs="?", type=int, default=REVOCATIONS)
    parser.add_argument("--planes", type=int, default=1, choices=(1, 2))
    arguments = parser.parse_args()
    asyncio.run(main(arguments.number, arguments.planes))
