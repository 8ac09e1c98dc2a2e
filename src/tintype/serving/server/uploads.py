"""The images in a request: several as a form, or one as the whole body."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from tintype.serving.server.limits import Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

LONGEST_NAME = 200
HINT = "send images as a form, such as curl -F images=@cat.jpg, or one image as the body with its type, image/jpeg"


class Upload(NamedTuple):
    """An image as it was sent: the name that the client gave it, only ever given back, and its bytes."""

    name: str
    content: bytes


def split_body(body: bytes, content_type: str, most: int) -> list[Upload]:
    """Take a request's body apart.

    Args:
        body: All of it.
        content_type: The header.
        most: Images.

    Raises:
        Refusal: 415 for another type, 400 for a damaged form, 413 for too many images, 422 for none or for a field that
            is no file.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        if kind.startswith(b"image/") or kind == b"application/octet-stream":
            return [Upload("", body)]
        raise Refusal(415, f"the type of the request is {kind.decode('latin-1')[:80] or 'missing'}: {HINT}.")
    if not options.get(b"boundary"):
        raise Refusal(400, "the form has no boundary.")
    parts = _Parts(most)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        parser.write(body)
    except FormParserError:
        raise Refusal(400, "the form is damaged.") from None
    if parser.state != MultipartState.END:
        raise Refusal(400, "the form ends before its last boundary.")
    if not parts.uploads:
        raise Refusal(422, f"there is no image in the request: {HINT}.")
    return parts.uploads


class _Parts:
    """What the parser finds, piece by piece."""

    def __init__(self, most: int) -> None:
        self.uploads: list[Upload] = []
        self._most = most
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._field = self._value = self._disposition = b""
        self._pieces: list[bytes] = []
        self._name = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            field = options.get(b"name", b"").decode("utf-8", "replace")[:LONGEST_NAME]
            raise Refusal(422, f"the field {field!r} is no file; options go into the address: /predict?top=3.")
        if len(self.uploads) >= self._most:
            raise Refusal(413, f"there are more than {self._most} images in the request.")
        self._name = options[b"filename"].decode("utf-8", "replace")[:LONGEST_NAME]

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        self.uploads.append(Upload(self._name, b"".join(self._pieces)))
