"""Pictures out of a request: multipart form fields `image`, or the whole body."""

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pawprint.serving.problems import RequestError

_OTHER_PARTS = 16  # parts of a form that are no pictures, at most
_NAMES = 8  # of a form's fields, in an error


class _Parser(MultiPartParser):
    """Starlette's, which ends at one part too many and not after the last."""

    spool_max_size = 2**40  # files stay in memory, which the body's limit bounds
    max_parts = 0
    _parts = 0

    def on_part_begin(self) -> None:
        """Of any kind: one without headers costs as much."""
        self._parts += 1
        if self._parts > self.max_parts:
            raise RequestError(413, "too_many_images", f"the form has more than {self.max_parts} parts")
        super().on_part_begin()


async def one_picture(request: Request) -> bytes:
    """The picture of a request: the multipart field `image`, or the whole body."""
    if not _is_form(request):
        return await request.body()
    uploads = await _uploads(request, 1)
    if len(uploads) > 1:
        message = f"`image` came {len(uploads)} times; one is allowed (see /predict/batch)"
        raise RequestError(400, "several_images", message)
    return await uploads[0].read()


async def many_pictures(request: Request, most: int) -> list[tuple[str, bytes]]:
    """(file name, bytes) of every form field `image` (or `images`), in order, at most `most`."""
    if not _is_form(request):
        raise RequestError(415, "bad_form", "send the photographs as a multipart form: `-F image=@A -F image=@B`")
    uploads = await _uploads(request, most)
    if len(uploads) > most:
        raise RequestError(413, "too_many_images", f"{len(uploads)} photographs came; at most {most} go at once")
    return [(upload.filename or "", await upload.read()) for upload in uploads]


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def _uploads(request: Request, most: int) -> list[UploadFile]:
    parser = _Parser(request.headers, request.stream())
    parser.max_parts = most + _OTHER_PARTS
    try:
        form = await parser.parse()
    except RequestError:
        raise
    except (MultiPartException, HTTPException, KeyError) as error:
        reason = getattr(error, "message", None) or getattr(error, "detail", None) or "it names no boundary"
        raise RequestError(400, "bad_form", f"the multipart form cannot be read: {reason}") from None
    named = [value for name, value in form.multi_items() if name in ("image", "images")]
    if not named:
        found = ", ".join(sorted({name[:64] for name in form})[:_NAMES]) or "none"
        raise RequestError(400, "no_image", f"the form has no field `image` (it has: {found}); send `-F image=@FILE`")
    uploads = [value for value in named if isinstance(value, UploadFile)]
    if len(uploads) < len(named):
        raise RequestError(400, "no_image", "the field `image` holds text, not a file; send `-F image=@FILE`")
    return uploads
