"""A dead letter and an ended redrive of it, created over HTTP."""

from __future__ import annotations

import httpx

from support.parts import wait_until


def create_dead_letter(http: httpx.Client, identity: dict[str, str]) -> dict[str, str]:
    """Let a run fail and redrive it; return the ids by the names of their parameters.

    The new run fails too, so that its letter is open.
    """
    body = {"template": "digest", "inputs": {"files": ["file-that-is-missing"]}}
    run = http.post("/api/v1/runs", json=body, headers=identity).json()["id"]

    def letters() -> list[dict[str, str]]:
        return list(http.get("/api/v1/deadLetters?state=OPEN", headers=identity).json()["dead_letters"])

    wait_until(lambda: [letter["run"] for letter in letters()] == [run], "the dead letter")
    redrive = http.post("/api/v1/redrives", json={"filter": {"ids": [letters()[0]["id"]]}}, headers=identity).json()
    shown = f"/api/v1/redrives/{redrive['id']}"
    wait_until(lambda: http.get(shown, headers=identity).json()["state"] == "ENDED", "the redrive")
    wait_until(lambda: bool(letters()), "the dead letter of its run")
    (letter,) = letters()
    return {"dead_letter": letter["id"], "group": letter["group"], "redrive": redrive["id"]}
