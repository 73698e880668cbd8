"""What a client is told of a request that fails, in the form that OpenAI's clients read."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from agemem_jax.serving.server.scheduler import Failure, OutOfTime, QueueFull

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class APIError(Exception):
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      message: one sentence.
      param: the field that is wrong, if one is.
      code: for programs.
      headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, kind)
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def busy(error: QueueFull, seconds: int) -> APIError:
    """The queue is full: come again after so many seconds."""
    return APIError(
        429, f"The server is busy: {error}", code="queue_full",
        headers={"Retry-After": str(seconds)},
    )  # fmt: skip


def of_failure(failure: Failure) -> APIError:
    """What a request that the scheduler ended is answered with."""
    if isinstance(failure, OutOfTime):
        return APIError(504, str(failure), code="timeout")
    return APIError(500, str(failure))


async def answer_api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, APIError)
    return error.response()


async def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    told = {404: f"There is nothing at {request.url.path}.", 405: "Not by this method."}
    message = told.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    return APIError(error.status_code, message, headers=headers).response()


async def answer_fault(request: Request, error: Exception) -> JSONResponse:
    """A bug: the traceback is logged, the client learns no more than that there is one."""
    return APIError(500, "The server met an unexpected error; its log has it.").response()
