"""Refusals: what a caller is told, in the one JSON body that the clients of every dialect can read."""

from __future__ import annotations

from typing import Any

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         429: "rate_limit_error"}  # fmt: skip


class Refusal(Exception):
    """An answer other than 200: `code` for programs, `param` for the item or field at fault ("input[3]")."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)
        if close:
            self.headers["connection"] = "close"
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


def invalid(code: str, message: str, param: str | None = None) -> Refusal:
    """A request that cannot be answered as it is."""
    return Refusal(400, code, message, param=param)


def body_of(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """`error` as OpenAI's clients read it, `detail` as Jina's, `message` as Cohere's."""
    kind = KINDS.get(
        refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    told = f"{refusal.param}: {refusal.message}" if refusal.param else refusal.message
    return {
        "error": {"message": told, "type": kind, "param": refusal.param, "code": refusal.code},
        "detail": told,
        "message": told,
        "request_id": request_id,
    }
