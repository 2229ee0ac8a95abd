"""The local page on which a person rates: a server for one rater, bound to this machine.

Whoever opens the page needs the random token in its address; a web page elsewhere cannot reach the server by a name of
its own (the Host header must be this machine's) nor send ratings (the token must stand in a header). What the page gets
holds texts, questions and the rater's own ratings: no system, verdict, record id, or other rater.
"""

from __future__ import annotations

import errno
import hmac
import json
import operator
import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from shard_eval.errors import ShardError, UsageError
from shard_eval.labelling.questions import FIRST, SECOND, TIE, questions
from shard_eval.labelling.sample import Item, order, turned
from shard_eval.labelling.store import MOST_SECONDS, Rating, Ratings, Stale

HOST = "127.0.0.1"
LARGEST_BODY = 64 * 1024
_FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Session:
    """What the page asks and says, in terms of a position in the rater's own order."""

    def __init__(self, ratings: Ratings) -> None:
        self.ratings, self.sample = ratings, ratings.sample
        self.items = order(self.sample, ratings.rater)
        self._place = {item.key: i for i, item in enumerate(self.items)}

    def state(self) -> dict[str, Any]:
        """How far the rater is, and where to go on: the first item neither rated nor skipped."""
        kept = self.ratings.all()
        rated = [self.ratings.complete(kept.get(item.key)) for item in self.items]
        skipped = [kept.get(item.key, Rating()).skipped for item in self.items]
        handled = [a or b for a, b in zip(rated, skipped, strict=True)]
        return {
            "total": len(self.items),
            "rated": sum(rated),
            "skipped": sum(skipped),
            "open": [i for i, done in enumerate(handled) if not done],
        }

    def start(self) -> dict[str, Any]:
        """What the page needs once."""
        asked = [asdict(q) for q in questions(self.sample.axes, self.sample.pairs)]
        return {"pairs": self.sample.pairs, "questions": asked, **self.state()}

    def item(self, place: int) -> dict[str, Any]:
        """The texts of an item and what this rater said of it.

        Raises:
            UsageError: if there is no such item.
        """
        item = self._item(place)
        rating = self.ratings.all().get(item.key, Rating())
        responses = item.responses[::-1] if self._is_turned(item) else item.responses
        return {
            "place": place,
            "request": item.prompt,
            "need": item.need,
            "withhold": item.withhold,
            "responses": responses,
            "labels": {axis: self._turn(item, label) for axis, label in rating.labels.items()},
            "skipped": rating.skipped,
            "note": rating.note,
            "version": rating.version,
        }

    def rate(self, said: dict[str, Any]) -> dict[str, Any]:
        """Keep what the rater says of an item: all of it, labels, skip and note.

        Returns:
            How far the rater is, and the item's version now.

        Raises:
            UsageError: if it is not what the page sends.
            Stale: if the item was saved elsewhere since the page got it.
        """
        try:
            item = self._item(said["place"])
            given = {axis: self._unturn(item, label) for axis, label in said["labels"].items()}
            seconds = min(max(float(said["seconds"]), 0.0), MOST_SECONDS)
            rating = Rating(given, said["skipped"] is True, str(said["note"]), seconds)
            version = operator.index(said["version"])
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UsageError(f"this is no rating ({error!r}).") from error
        saved = self.ratings.save(item.key, replace(rating, labels={} if rating.skipped else given), version)
        return {**self.state(), "version": saved}

    def undo(self) -> dict[str, Any]:
        """Take the last rating back; "place" is its item's, None if there was none."""
        key = self.ratings.undo()
        return {**self.state(), "place": None if key is None else self._place[key]}

    def _item(self, place: object) -> Item:
        if type(place) is not int or not 0 <= place < len(self.items):
            raise UsageError(f"there is no item {place!r}; there are {len(self.items)}.")
        return self.items[place]

    def _is_turned(self, item: Item) -> bool:
        return self.sample.pairs and turned(self.sample, self.ratings.rater, item)

    def _turn(self, item: Item, label: int | str) -> int | str:
        """A kept label as the page has it."""
        if not self.sample.pairs or label == TIE:
            return label
        return FIRST if (label == "candidate") != self._is_turned(item) else SECOND

    def _unturn(self, item: Item, label: Any) -> int | str:
        """A label from the page as it is kept."""
        if self.sample.pairs and label in (FIRST, SECOND):
            return "candidate" if (label == FIRST) != self._is_turned(item) else "baseline"
        if self.sample.pairs and label != TIE:
            raise UsageError(f"{label!r} is none of {FIRST}, {TIE}, {SECOND}.")
        return label  # type: ignore[no-any-return]  # checked when it is kept


class LabelServer(ThreadingHTTPServer):
    """Serves one session on this machine; `url` is the only address that works."""

    allow_reuse_address = os.name != "nt"  # there it would let two servers share a port

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is nothing to report."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def open_server(session: Session, port: int) -> LabelServer:
    """Bind a server.

    Args:
        session: whom it asks.
        port: 0 for any that is free.

    Raises:
        UsageError: if the port is in use or not allowed.
    """
    try:
        return LabelServer(session, port)
    except OverflowError as error:
        raise UsageError(f"--port {port}: give a number up to 65535, or none for any that is free.") from error
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UsageError(f"--port {port} {why}. Give another one, or none for any that is free.") from error


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "shard", ""

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        if path in _FILES:
            self._send(HTTPStatus.OK, _asset(_FILES[path]), _FILES[path].rsplit(".", 1)[-1])
        elif path == "state":
            self._answer(self.server.session.start)
        elif place := re.fullmatch(r"item/([0-9]{1,9})", path):
            self._answer(lambda: self.server.session.item(int(place[1])))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        path = self._path()
        if path is None:
            return
        if not self._is_token(self.headers.get("X-Token", "")):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is missing from the header")
        elif (said := self._body()) is None:
            return
        elif path == "rate":
            self._answer(lambda: self.server.session.rate(said))
        elif path == "undo":
            self._answer(self.server.session.undo)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def _path(self) -> str | None:
        """The path below the token; None if the request was refused."""
        host = self.headers.get("Host", "")
        token, slash, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if host.partition(":")[0] not in (HOST, "localhost"):  # another port is a tunnel to this machine
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers to this machine's own name only")
        elif self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            self._refuse(HTTPStatus.FORBIDDEN, "another site asked")
        elif not self._is_token(token) or not slash:
            self._refuse(HTTPStatus.FORBIDDEN, "the address needs the token that the command printed")
        else:
            return rest
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _body(self) -> dict[str, Any] | None:
        """The JSON object of a request; None if the request was refused."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length):
            self._refuse(HTTPStatus.BAD_REQUEST, "Content-Length must be a number of at most 9 digits")
            return None
        if int(length) > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a rating has at most {LARGEST_BODY} bytes")
            return None
        try:
            said = json.loads(self.rfile.read(int(length)) or b"{}")
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "a rating is a JSON object")
            return None
        return said

    def _answer(self, ask: Callable[[], dict[str, Any]]) -> None:
        found: dict[str, Any]
        try:
            status, found = HTTPStatus.OK, ask()
        except Stale as error:
            status, found = HTTPStatus.CONFLICT, {"error": str(error)}
        except UsageError as error:
            status, found = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except (ShardError, OSError) as error:  # a damaged file, a full disk: the rater must see it
            status, found = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
        self._send(status, json.dumps(found).encode(), "json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what follows in it may be an unread body
        self._send(status, json.dumps({"error": why}).encode(), "json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{_TYPES[kind]}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""


@cache
def _asset(name: str) -> bytes:
    return resources.files("shard_eval.labelling").joinpath(name).read_bytes()
