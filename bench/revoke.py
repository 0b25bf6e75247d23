"""How fast a revocation reaches the data planes: `python -m bench.revoke [REVOCATIONS] [--planes 2]`.

Each time from the call that revokes a key, or retires what signed it, to the first 401 that the key gets on the last
data plane, which is asked for again and again meanwhile; first on an empty platform, then with 10,000 revoked keys and
10,000 limits, then through a restart.
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

from bench.support.stopping import Stand, make_key, stand, told
from bench.support.targets import DRW, answers, started
from drw.agent.delivery import envoy
from drw.kernel.runtime.settings import SettingLayers
from drw.local.preflight import free_port

REVOCATIONS = 100
RETIREMENTS = 10
MANY = 10_000


@contextmanager
def another_plane(at: Stand) -> Iterator[str]:
    """Run a second data plane of the platform; gives its address."""
    listen, own = f"127.0.0.1:{free_port('127.0.0.1')}", at.data / "second.toml"
    own.write_text(
        f'name = "second"\n[data_plane]\nlisten = "{listen}"\nfolder = "{at.data}/second"\n'
        f'admin = "unix:{at.data}/second.a"\nmetrics = "unix:{at.data}/second.m"\n'
    )
    files = [at.data / "profile.toml", own]
    profile = SettingLayers(files).profile()
    with started([sys.executable, "-m", "drw.agent", *map(str, files)], "second-agent.log"):
        while not envoy.ready_file(profile).exists():
            time.sleep(0.1)
        with started(envoy.command(profile), "second-envoy.log"):
            answers(f"http://{listen}/healthz", 20)
            yield f"http://{listen}"


async def first_refusal(url: str, secret: str, revoked: asyncio.Event) -> float:
    """Return when the key was refused first."""
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as client:
        while True:
            status = (await client.get("/v1/models")).status_code
            if status == 401:
                assert revoked.is_set(), "refused before it was revoked"
                return time.perf_counter()
            assert status == 200, status
            await asyncio.sleep(0.002)


async def timed(operator: httpx.AsyncClient, path: str, secret: str, planes: Sequence[str]) -> float:
    """Return how long it took from this call until the key was refused everywhere, in seconds."""
    called = asyncio.Event()
    refused = [asyncio.create_task(first_refusal(url, secret, called)) for url in planes]
    await asyncio.sleep(0.02)
    began = time.perf_counter()
    called.set()
    (await operator.post(path)).raise_for_status()
    async with asyncio.timeout(30):
        return max(await asyncio.gather(*refused)) - began


async def revocations(at: Stand, number: int, planes: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return how long each took, in seconds, and the keys."""
    with at.api() as api:
        keys = [make_key(api, "research-b", "models:read") for _ in range(number)]
    headers = {"authorization": f"Bearer {at.operator}"}
    took = []
    async with httpx.AsyncClient(base_url=at.url, headers=headers, timeout=60) as operator:
        await settled(operator)
        for key, secret in keys:
            took.append(await timed(operator, f"/api/v1/keys/{key}:revoke", secret, planes))
    return took, [secret for _, secret in keys]


async def retirements(at: Stand, number: int, planes: Sequence[str]) -> tuple[list[float], int]:
    """Return how long each took, in seconds, and how often a key that was revoked just before was let through."""
    took, through = [], 0
    headers = {"authorization": f"Bearer {at.operator}"}
    async with httpx.AsyncClient(base_url=at.url, headers=headers, timeout=60) as operator:
        for _ in range(number):
            kid = (await operator.post("/api/v1/signingKeys:rotate")).raise_for_status().json()["kid"]
            execute(at, "update authentication.signing_key set signs_from = now() where kid = %s", kid)
            with at.api() as api:
                (key, revoked), (_, secret) = (make_key(api, "research-b", "models:read") for _ in range(2))
            await settled(operator)
            await timed(operator, f"/api/v1/keys/{key}:revoke", revoked, planes)
            watching = [asyncio.create_task(let_through_again(url, revoked)) for url in planes]
            took.append(await timed(operator, f"/api/v1/signingKeys/{kid}:retire", secret, planes))
            through += sum(await asyncio.gather(*watching))
    return took, through


async def let_through_again(url: str, secret: str) -> int:
    """Return how many requests of a revoked key are let through within two seconds."""
    through, end = 0, time.perf_counter() + 2
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as client:
        while time.perf_counter() < end:
            through += (await client.get("/v1/models")).status_code != 401
            await asyncio.sleep(0.002)
    return through


async def settled(operator: httpx.AsyncClient) -> None:
    """Return once the data plane is done with what was changed before."""
    await asyncio.sleep(5)
    (await operator.get("/v1/models")).raise_for_status()


def fill(at: Stand) -> None:
    """Add 10,000 revoked keys and 10,000 limits."""
    execute(
        at,
        "insert into authentication.key (id, name, org, desk, scopes, last_characters, created_at, expires_at,"
        " revoked_at, requests_per_minute) select 'key_' || md5(n::text), 'old', 'local', 'research', '{}', 'x',"
        " now(), now() + interval '90 days', now(), 0 from generate_series(1, %s) n",
        MANY,
    )
    execute(
        at,
        "insert into rate_limiting.subject_limit"
        " select 'KEY', 'local', 'key_' || md5('l' || n), 'research', 100, 0, 0, 'FIXED', 'LOCAL_SHARE',"
        " now() + interval '90 days'"
        " from generate_series(1, %s) n",
        MANY,
    )
    execute(at, "notify authentication_changed")
    execute(at, "notify rate_limiting_changed")


def execute(at: Stand, query: LiteralString, *args: object) -> None:
    """Run a statement in the platform's database."""
    dsn = tomllib.loads((at.data / "profile.toml").read_text())["postgres"]
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(query, args)


def let_through(at: Stand, secrets: list[str]) -> int:
    """Restart the platform, and return how many of these keys it lets through then."""
    subprocess.run([DRW, "down"], env=at.env, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([DRW, "up", "--detach", "--port", str(at.port)], env=at.env, check=True, stdout=subprocess.DEVNULL)
    with at.api() as api:
        answers = [api.get("/v1/models", headers={"authorization": f"Bearer {secret}"}) for secret in secrets]
    return sum(answer.status_code != 401 for answer in answers)


async def main(number: int, planes: int) -> None:
    aim = "(aim: p99 under 1000 ms)"
    with ExitStack() as stack:
        at = stack.enter_context(stand(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drw-bench-")))))
        urls = [at.url, *(stack.enter_context(another_plane(at)) for _ in range(planes - 1))]
        print(f"data planes: {planes}")
        took, secrets = await revocations(at, number, urls)
        print(told("revoked", took, aim), flush=True)
        took, through = await retirements(at, min(number, RETIREMENTS), urls)
        print(told("what signed it is retired", took, aim), flush=True)
        print(f"after that {through} requests of keys revoked just before are let through (aim: 0)", flush=True)
        fill(at)
        took, more = await revocations(at, number, urls)
        print(told(f"revoked, beside {MANY} revoked and {MANY} limits", took, aim), flush=True)
        through = await asyncio.to_thread(let_through, at, secrets + more)
        print(f"after a restart {through} of {len(secrets + more)} revoked keys are let through (aim: 0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.revoke", description="How fast a revocation reaches the data planes.")
    parser.add_argument("number", nargs="?", type=int, default=REVOCATIONS)
    parser.add_argument("--planes", type=int, default=1, choices=(1, 2))
    own = parser.parse_args()
    asyncio.run(main(own.number, own.planes))
