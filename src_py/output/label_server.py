"""The page in which a person names clusters and mends them, served to this machine alone.

It answers on 127.0.0.1 under an address that holds a random token, and nothing without it; a page
of another site can neither ask it (Host, Origin) nor be asked by it (Content-Security-Policy). What
the page asks for are numbers: no path ever comes from outside.
"""

import hmac
import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from src_py.clusters.labelling import Labelling, OutOfDate
from src_py.images.opening import UnreadableImage
from src_py.output.served_images import ServedImages
from src_py.run.errors import UserError

ADDRESS = "127.0.0.1"
HTTP_PORT = 80
LONGEST_NAME = 200  # letters
LARGEST_BODY = 4 * 2**20  # bytes: the numbers of half a million images
IDLE_SECONDS = 60  # after which a connection is given up
FILES = {
    "": ("label_page.html", "text/html; charset=utf-8"),
    "label_page.js": ("label_page.js", "text/javascript; charset=utf-8"),
    "label_page.css": ("label_page.css", "text/css; charset=utf-8"),
    "page_style.css": ("page_style.css", "text/css; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KEEP = "private, max-age=3600"  # for images: the token, and so the address, is new in each start


class Refused(Exception):
    """A request that is not answered. The message is told to whoever asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class LabelServer(ThreadingHTTPServer):
    """Serves one run.

    Attributes:
        url: what to open in a browser.
        facts: of the images, which do not change: names, confidences, the classifier's clusters.
    """

    daemon_threads = True
    block_on_close = False  # a connection that is kept open shall not hold up the end

    def __init__(
        self, labelling: Labelling, images: ServedImages, facts: dict[str, Any], port: int = 0
    ) -> None:
        """
        Args:
            port: 0 takes one that is free.

        Raises:
            UserError: when the port is taken.
        """
        self.labelling, self.images, self.facts = labelling, images, facts
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"--port {port}: {reason}; choose another, or none") from None
        self.hosts = {f"{host}:{self.server_port}" for host in (ADDRESS, "localhost")}
        if self.server_port == HTTP_PORT:  # which browsers leave out
            self.hosts |= {ADDRESS, "localhost"}
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was left while it was answered is no error."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"label.py: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: LabelServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_other(self) -> None:
        """Any other method."""
        self._answer(self._refuse_method)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_other

    def version_string(self) -> str:
        return "SCAN"

    def log_message(self, *_: Any) -> None:
        """Says nothing: the token is in every line, and the terminal is for results."""

    # --- who may ask, and for what -----------------------------------------------------------

    def _answer(self, answer: Callable[[str], None]) -> None:
        try:
            answer(self._allowed_path())
        except Refused as error:
            self._send_json({"error": str(error)}, error.status)
        except OutOfDate as error:
            state = self.server.labelling.state()
            self._send_json({"error": str(error), "state": state}, HTTPStatus.CONFLICT)
        except UserError as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except UnreadableImage as error:
            self._send_json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:  # a full disk, a folder that may not be written to
            self._send_json({"error": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _allowed_path(self) -> str:
        """What follows the token in the address.

        Raises:
            Refused: for a request that does not come from the served page.
        """
        # A page of another site reaches this address by a name of its own (DNS rebinding).
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, "not served under this name")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            raise Refused(HTTPStatus.FORBIDDEN, "not served to other sites")
        _, _, rest = self.path.partition("/")
        token, _, path = rest.partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "the address lacks its token: see the terminal")
        return path

    def _refuse_method(self, path: str) -> None:
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not served")

    def _get(self, path: str) -> None:
        if path in FILES:
            name, kind = FILES[path]
            self._send(Path(__file__).with_name(name).read_bytes(), kind)
        elif path == "images":
            self._send_json(self.server.facts)
        elif path == "state":
            self._send_json(self.server.labelling.state())
        elif picture := re.fullmatch(r"(thumbnail|image)/([0-9]{1,9})", path):
            self._send_picture(picture[1], int(picture[2]))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _send_picture(self, size: str, row: int) -> None:
        if row >= len(self.server.labelling.images):
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such image")
        if size == "thumbnail":
            self._send(self.server.images.thumbnail(row), "image/jpeg", KEEP)
            return
        found, kind = self.server.images.original(row)
        if isinstance(found, bytes):
            self._send(found, kind, KEEP)
            return
        with found.open("rb") as file:
            size_now = file.seek(0, 2)
            file.seek(0)
            self._begin(HTTPStatus.OK, kind, size_now, KEEP)
            shutil.copyfileobj(file, self.wfile)

    def _post(self, path: str) -> None:
        act = ACTIONS.get(path)
        if act is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such action")
        act(self.server.labelling, self._fields())
        self._send_json({"state": self.server.labelling.state()})

    def _fields(self) -> dict[str, Any]:
        """The JSON object that was sent.

        Raises:
            Refused: when it is something else.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a length is needed")
        if int(length) > LARGEST_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too much at once")
        body = self.rfile.read(int(length))
        # Other sites may send forms and plain text without asking first, but no JSON.
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is needed")
        if self.headers.get("Origin") is None:
            raise Refused(HTTPStatus.FORBIDDEN, "a browser says where a change comes from")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(HTTPStatus.BAD_REQUEST, "not JSON") from None
        if not isinstance(fields, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "an object is needed")
        return fields

    # --- answers -------------------------------------------------------------------------------

    def _send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        if status != HTTPStatus.OK:
            self.close_connection = True  # what was sent with the request may not have been read
        text = json.dumps(content, separators=(",", ":"))
        self._send(text.encode("ascii"), "application/json", status=status)

    def _send(
        self, body: bytes, kind: str, cache: str = "no-store", status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self._begin(status, kind, len(body), cache)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, length: int, cache: str) -> None:
        headers = {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Cache-Control": cache,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, POST"
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


# --- actions: what a page may ask to be done -----------------------------------------------------

Fields = dict[str, Any]


def _name(labelling: Labelling, fields: Fields) -> None:
    labelling.name(_version(fields), _number(fields, "cluster"), _text(fields, "name"))


def _merge(labelling: Labelling, fields: Fields) -> None:
    labelling.merge(_version(fields), _numbers(fields, "clusters"))


def _take_apart(labelling: Labelling, fields: Fields) -> None:
    labelling.take_apart(_version(fields), _number(fields, "cluster"))


def _move(labelling: Labelling, fields: Fields) -> None:
    cluster = None if fields.get("cluster") == "new" else _number(fields, "cluster")
    name = _text(fields, "name") if "name" in fields else ""
    labelling.move(_version(fields), _numbers(fields, "rows"), cluster, name)


def _take_back(labelling: Labelling, fields: Fields) -> None:
    labelling.take_back(_version(fields), _numbers(fields, "rows"))


def _split(labelling: Labelling, fields: Fields) -> None:
    labelling.split(_version(fields), _number(fields, "cluster"))


ACTIONS: dict[str, Callable[[Labelling, Fields], None]] = {
    "name": _name,
    "merge": _merge,
    "take_apart": _take_apart,
    "move": _move,
    "take_back": _take_back,
    "split": _split,
    "undo": lambda labelling, fields: labelling.undo(_version(fields)),
    "redo": lambda labelling, fields: labelling.redo(_version(fields)),
}


def _version(fields: Fields) -> int:
    return _number(fields, "version")


def _number(fields: Fields, name: str) -> int:
    if type(fields.get(name)) is not int:
        raise UserError(f'"{name}" must be a whole number')
    return fields[name]


def _numbers(fields: Fields, name: str) -> list[int]:
    numbers = fields.get(name)
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise UserError(f'"{name}" must be a list of whole numbers')
    return numbers


def _text(fields: Fields, name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise UserError(f'"{name}" must be text')
    if len(fields[name]) > LONGEST_NAME:
        raise UserError(f"a name may have {LONGEST_NAME} letters")
    return fields[name]
