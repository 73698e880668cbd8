"""The server as a Starlette application: routes, who may use them, and what they count."""

import contextlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agemem_jax.serving.server import completions, embeddings, errors, memory_endpoint, responses
from agemem_jax.serving.server.bodies import ClientGone
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.mcp_server import make_mcp
from agemem_jax.serving.server.service import Service

# The last is how the middleware reads an address of IPv6, which no page can give a name to.
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[")


def make_app(service: Service, api_key: str | None = None) -> Starlette:
    """The application of a service. Its scheduler runs from the application's start to its end.

    Args:
      service: to serve.
      api_key: what clients must show; without one, only requests to a local host's name are
        answered, so that no page in a browser reaches the server by a name of its own.
    """

    def route(path: str, handle: Callable[[Service, Request], Awaitable[Response]], *methods: str):
        async def endpoint(request: Request) -> Response:
            try:
                response = await handle(service, request)
            except ClientGone:
                response = Response(status_code=499)  # nobody reads it; metrics count it
            return response

        return Route(path, endpoint, methods=methods)

    mcp = None
    if service.agent is not None:
        mcp = make_mcp(service.agent.store, service.limits.body_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        service.scheduler.start()
        try:
            async with mcp.session_manager.run() if mcp else contextlib.nullcontext():
                yield
        finally:
            service.scheduler.close()
            if service.agent is not None:
                service.agent.close()

    routes = [
        route("/healthz", _health, "GET"),
        route("/metrics", _metrics, "GET"),
        route("/v1/models", _models, "GET"),
        route("/v1/models/{name:path}", _model, "GET"),
        route("/v1/chat/completions", completions.complete, "POST"),
        route("/v1/responses", responses.respond, "POST"),
        route("/v1/embeddings", embeddings.embed, "POST"),
    ]
    if mcp is not None:
        routes.append(route("/v1/memory_tool", memory_endpoint.run, "POST"))
        routes += mcp.streamable_http_app().routes
    middleware = [Middleware(_Counting, service, [each.path for each in routes])]
    if api_key is None:
        middleware.append(Middleware(TrustedHostMiddleware, list(_LOCAL_HOSTS), www_redirect=False))
    else:
        middleware.append(Middleware(_Authenticating, api_key))
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            APIError: errors.answer_api_error,
            HTTPException: errors.answer_http_error,
            Exception: errors.answer_fault,
        },
    )


async def _health(service: Service, request: Request) -> Response:
    alive = service.scheduler.alive
    return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)


async def _metrics(service: Service, request: Request) -> Response:
    content, kind = service.metrics.render()
    return Response(content, media_type=kind)


def _described(service: Service, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": service.began, "owned_by": "agemem_jax"}


async def _models(service: Service, request: Request) -> Response:
    told = [_described(service, name) for name in service.names]
    return JSONResponse({"object": "list", "data": told})


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in service.names:
        raise APIError(404, f"There is no model {name[:100]!r}.", code="model_not_found")
    return JSONResponse(_described(service, name))


class _Counting:
    """Counts answers by path and status."""

    def __init__(self, app: ASGIApp, service: Service, paths: Sequence[str]):
        self._app, self._metrics, self._paths = app, service.metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)


class _Authenticating:
    """Lets nobody in without the key, but to ask whether the server is well."""

    def __init__(self, app: ASGIApp, key: str):
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            headers = dict(scope["headers"])
            shown = headers.get(b"authorization", b"")
            if b"x-api-key" in headers and not shown:
                shown = b"Bearer " + headers[b"x-api-key"]
            if not hmac.compare_digest(shown, self._expected):
                error = APIError(
                    401, "Send the server's key as `Authorization: Bearer KEY`.",
                    code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
