"""The web server of the playground: three files, a few facts, and the questions of the page."""

import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Any

from bertsmith.errors import UserError
from bertsmith.playground.subject import Subject
from bertsmith.tokenizer import replace_surrogates

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise UserError(f"the playground needs more ({error}): pip install bertsmith[playground]") from None

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
"""What this machine calls itself. Another name is that of a page elsewhere whose address was pointed here."""

MOST_BYTES = 100_000
"""Longest question."""

FILES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(subject: Subject) -> Starlette:
    """The application. It answers only a page that it served itself."""
    folder = files("bertsmith.playground")
    content = {path: folder.joinpath(path[1:] or "page.html").read_bytes() for path in FILES}

    async def send_file(request: Request) -> Response:
        return Response(content[request.url.path], media_type=FILES[request.url.path])

    async def send_facts(_request: Request) -> Response:
        return JSONResponse(subject.facts())

    async def answer(request: Request) -> Response:
        try:
            given = await _read_question(request)
        except UserError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        try:
            reply = await run_in_threadpool(partial(subject.ask, request.path_params["question"], *given))
        except UserError as error:  # no fault: while one types there is often no mask yet
            reply = {"error": str(error)}
        return JSONResponse(reply)

    routes = [Route(path, guarded(send_file)) for path in FILES]
    routes += [Route("/facts", guarded(send_facts)), Route("/ask/{question}", guarded(answer), methods=["POST"])]
    return Starlette(routes=routes)


def guarded(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Refuse what another page's script sends here, and forbid ours to load anything from elsewhere."""

    async def checked(request: Request) -> Response:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if host.rsplit(":", 1)[0] not in NAMES or origin not in (None, f"http://{host}"):
            return Response("only for pages of this machine", status_code=403, headers=HEADERS)
        response = await handle(request)
        response.headers.update(HEADERS)
        return response

    return checked


async def _read_question(request: Request) -> tuple[str, str | None]:
    """The text and the second one of a question.

    Raises:
        UserError: It is no question, or too long.
    """
    if request.headers.get("content-type", "").split(";")[0] != "application/json":  # what no foreign page may send
        raise UserError("a question is application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise UserError(f"the text has more than {MOST_BYTES:,} bytes; give a shorter one")
    try:
        given: Any = json.loads(body)
        text, pair = given["text"], given.get("pair")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError('a question is {"text": ..., "pair": ...}') from None
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise UserError("text and pair are strings")
    return replace_surrogates(text), replace_surrogates(pair) if pair else None


def listen(port: int) -> socket.socket:
    """Listen to this machine alone.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: The port cannot be had.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port is {port}; give a number from 1 to 65535, or 0 for any that is free")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # from now on a page waits until it is answered
    except OSError as error:
        listener.close()
        raise UserError(f"port {port} cannot be had ({error.strerror}); give another with --port, or 0") from error
    return listener


def serve(subject: Subject, listener: socket.socket) -> None:
    """Answer until the process is stopped."""
    settings = uvicorn.Config(make_app(subject), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listener])
