"""Who asks a page that wants a password."""

from __future__ import annotations

from typing import Any

import httpx

from app.door import Hash

PASSWORD = "a horse, a battery"
ACCOUNTS = {user: f"{user}:{Hash.of(PASSWORD, ln=14, r=8, p=1)}" for user in ("anna", "bo")}


def web(url: str, **more: Any) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=300, **more)


def log_in(http: httpx.Client, user: str = "anna", password: str = PASSWORD) -> httpx.Response:
    return http.post("/login", data={"user": user, "password": password})
