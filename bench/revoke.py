"""How fast a revocation reaches the data plane: `python -m bench.revoke [REVOCATIONS]`.

Each time from the call that revokes a key to the first 401 that the key gets, which is asked for again and again
meanwhile; first on an empty platform, then with 10,000 revoked keys and 10,000 limits, then through a restart.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import httpx
import psycopg

from bench.stopping import Stand, make_key, stand, told
from bench.targets import DRW

REVOCATIONS = 100
MANY = 10_000


async def first_refusal(at: Stand, secret: str, revoked: asyncio.Event) -> float:
    """Return when the key was refused first."""
    async with httpx.AsyncClient(base_url=at.url, headers={"authorization": f"Bearer {secret}"}) as client:
        while True:
            status = (await client.get("/v1/models")).status_code
            if status == 401:
                assert revoked.is_set(), "refused before it was revoked"
                return time.perf_counter()
            assert status == 200, status
            await asyncio.sleep(0.002)


async def revocations(at: Stand, number: int) -> tuple[list[float], list[str]]:
    """Return how long each took, in seconds, and the keys."""
    with at.api() as api:
        keys = [make_key(api, "research-b", "models:read") for _ in range(number)]
    headers = {"authorization": f"Bearer {at.operator}"}
    took = []
    async with httpx.AsyncClient(base_url=at.url, headers=headers, timeout=60) as operator:
        await settled(operator)
        for key, secret in keys:
            called = asyncio.Event()
            refused = asyncio.create_task(first_refusal(at, secret, called))
            await asyncio.sleep(0.02)
            began = time.perf_counter()
            called.set()
            (await operator.post(f"/api/v1/keys/{key}:revoke")).raise_for_status()
            async with asyncio.timeout(30):
                took.append(await refused - began)
    return took, [secret for _, secret in keys]


async def settled(operator: httpx.AsyncClient) -> None:
    """Return once the data plane is done with what was changed before."""
    await asyncio.sleep(5)
    (await operator.get("/v1/models")).raise_for_status()


def fill(at: Stand) -> None:
    """Add 10,000 revoked keys and 10,000 limits."""
    dsn = tomllib.loads((at.data / "profile.toml").read_text())["postgres"]
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(
            "insert into authentication.key (id, name, org, desk, scopes, last_characters, created_at, expires_at,"
            " revoked_at, requests_per_minute) select 'key_' || md5(n::text), 'old', 'local', 'research', '{}', 'x',"
            " now(), now() + interval '90 days', now(), 0 from generate_series(1, %s) n",
            (MANY,),
        )
        database.execute(
            "insert into rate_limiting.subject_limit"
            " select 'KEY', 'local', 'key_' || md5('l' || n), 'research', 100, 0, 0, 'FIXED', 'LOCAL_SHARE',"
            " now() + interval '90 days'"
            " from generate_series(1, %s) n",
            (MANY,),
        )
        database.execute("notify authentication_changed")
        database.execute("notify rate_limiting_changed")


def let_through(at: Stand, secrets: list[str]) -> int:
    """Restart the platform, and return how many of these keys it lets through then."""
    subprocess.run([DRW, "down"], env=at.env, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([DRW, "up", "--detach", "--port", str(at.port)], env=at.env, check=True, stdout=subprocess.DEVNULL)
    with at.api() as api:
        answers = [api.get("/v1/models", headers={"authorization": f"Bearer {secret}"}) for secret in secrets]
    return sum(answer.status_code != 401 for answer in answers)


async def main(number: int) -> None:
    aim = "(aim: p99 under 1000 ms)"
    with tempfile.TemporaryDirectory(prefix="drw-bench-") as folder, stand(Path(folder)) as at:
        took, secrets = await revocations(at, number)
        print(told("revoked", took, aim), flush=True)
        fill(at)
        took, more = await revocations(at, number)
        print(told(f"revoked, beside {MANY} revoked and {MANY} limits", took, aim), flush=True)
        through = await asyncio.to_thread(let_through, at, secrets + more)
        print(f"after a restart {through} of {len(secrets + more)} revoked keys are let through (aim: 0)")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else REVOCATIONS))
