"""Pictures out of a request: multipart form fields `image`, or the whole body."""

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from pawprint.serving.problems import RequestError

_OTHER_FIELDS = 16  # fields of a form that are no pictures, at most


async def one_picture(request: Request) -> bytes:
    """The picture of a request: the multipart field `image`, or the whole body."""
    if not _is_form(request):
        return await request.body()
    uploads = _uploads(await _form(request, 2))
    if len(uploads) > 1:
        message = f"`image` came {len(uploads)} times; one is allowed (see /predict/batch)"
        raise RequestError(400, "several_images", message)
    return await uploads[0].read()


async def many_pictures(request: Request, most: int) -> list[tuple[str, bytes]]:
    """(file name, bytes) of every form field `image` (or `images`), in order, at most `most`."""
    if not _is_form(request):
        raise RequestError(415, "bad_form", "send the pictures as a multipart form: `-F image=@A -F image=@B`")
    uploads = _uploads(await _form(request, most))
    if len(uploads) > most:
        raise RequestError(413, "too_many_images", f"{len(uploads)} pictures came; at most {most} go at once")
    return [(upload.filename or "", await upload.read()) for upload in uploads]


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def _form(request: Request, files: int) -> FormData:
    """Held in memory: the body's limit bounds it."""
    too_many = f"Too many files. Maximum number of files is {files + 1}."
    try:
        return await request.form(max_files=files + 1, max_fields=_OTHER_FIELDS)
    except (MultiPartException, HTTPException, KeyError) as error:
        reason = getattr(error, "message", None) or getattr(error, "detail", None) or "it names no boundary"
        if reason == too_many:
            raise RequestError(413, "too_many_images", f"at most {files} pictures go at once") from None
        raise RequestError(400, "bad_form", f"the multipart form cannot be read: {reason}") from None


def _uploads(form: FormData) -> list[UploadFile]:
    named = [value for name, value in form.multi_items() if name in ("image", "images")]
    if not named:
        found = ", ".join(sorted({name[:64] for name in form})) or "none"
        raise RequestError(400, "no_image", f"the form has no field `image` (it has: {found}); send `-F image=@FILE`")
    uploads = [value for value in named if isinstance(value, UploadFile)]
    if len(uploads) < len(named):
        raise RequestError(400, "no_image", "the field `image` holds text, not a file; send `-F image=@FILE`")
    return uploads
