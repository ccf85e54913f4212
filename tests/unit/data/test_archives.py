"""Archives that are refused: unsafe, damaged, cut short, too large, or of no known layout."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pawprint.data import archives
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import contents, pets, small, tarred, unpacked, zipped

Make = Callable[[Path], Path]


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def zip_link(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    entry = zipfile.ZipInfo("cat/passwd.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    return path


def bomb(root: Path, name: str = "pets.zip") -> Path:
    """80 MB of zeros in 80 kB."""
    return zipped(root / name, pets() | {"cat/zeros.jpg": bytes(80 * 2**20)})


def encrypted(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := data.find(mark, start + 1)) >= 0:
            data[start + place] |= 1
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_between_members(root: Path) -> Path:
    path = tarred(root / "pets.tar", pets())
    with tarfile.open(path) as archive:
        end = archive.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:end])
    return path


def long_header(root: Path) -> Path:
    """A tar whose note before a member has 30 MB, in 30 kB: read whole, it would fill the memory."""
    path = root / "pets.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("cat/1.jpg")
        entry.pax_headers = {"comment": "x" * 30_000_000}
        archive.addfile(entry)
    return path


def flipped(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    return path


REFUSED: dict[str, tuple[Make, str]] = {
    "a zip that climbs": (lambda root: zipped(root / "pets.zip", pets() | {"../../up.jpg": b"x"}), "outside itself"),
    "a zip that climbs with backslashes": (
        lambda root: zipped(root / "pets.zip", pets() | {"..\\up.jpg": b"x"}), "outside itself"
    ),
    "a tar with an absolute name": (
        lambda root: tarred(root / "pets.tar.gz", pets() | {"/tmp/up.jpg": b"x"}), "outside itself"
    ),
    "a symbolic link in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "/etc/passwd", tarfile.SYMTYPE)), "a link"
    ),
    "a hard link in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "../secret", tarfile.LNKTYPE)), "a link"
    ),
    "a device in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "", tarfile.CHRTYPE)), "a link or a device"
    ),
    "a symbolic link in a zip": (zip_link, "a link"),
    "a zip bomb": (bomb, "unpacks to"),
    "a bomb in a tar.gz": (
        lambda root: tarred(root / "pets.tar.gz", pets() | {"cat/zeros.jpg": bytes(80 * 2**20)}), "unpacks to"
    ),
    "a bomb in a zip in a zip": (
        lambda root: zipped(root / "outer.zip", {"train.zip": bomb(root).read_bytes()}), "unpacks to"
    ),
    "an encrypted zip": (encrypted, "encrypted"),
    "a tar with an absurd header": (long_header, "a header of 30"),
    "a zip that is cut short": (lambda root: cut(zipped(root / "pets.zip", pets()), 0.6), "cut short"),
    "a zip with a damaged photograph": (flipped, "damaged"),
    "a tar.gz that is cut short": (lambda root: cut(tarred(root / "pets.tar.gz", pets()), 0.6), "cut short"),
    "a tar.gz that is cut at its head": (lambda root: cut(tarred(root / "pets.tar.gz", pets()), 0.01), "cut short"),
    "a tar that is cut between two members": (cut_between_members, "cut short"),
    "an empty file": (lambda root: unpacked(root, {"pets.zip": b""}) / "pets.zip", "no zip or tar"),
    "a text": (lambda root: unpacked(root, {"pets.zip": b"hello"}) / "pets.zip", "no zip or tar"),
    "pictures without a class": (
        lambda root: zipped(root / "pets.zip", {"1.jpg": small(1), "2.jpg": small(2)}), "which class.*Oxford's"
    ),
    "a camera's names in a folder `images`": (
        lambda root: zipped(root / "pets.zip", {"images/IMG_1.jpg": small(1), "images/dsc_2.jpg": small(2)}),
        "only `images`",
    ),
    "no pictures": (lambda root: zipped(root / "pets.zip", {"a.txt": b"x"}), "no pictures.*Microsoft's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsafe_or_damaged_is_refused_and_data_stays(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    work = tmp_path / "deep" / "deeper" / "work"
    data = unpacked(work / "data", pets(900) | {"dataset.json": b'{"name": "before"}'})
    before = contents(tmp_path / "deep")
    source = make(tmp_path)
    with pytest.raises(PawprintError, match=said) as refused:
        ingest(source, data)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path / "deep") == before
    with pytest.raises(PawprintError, match=said):
        ingest(source, data, add=True)
    assert contents(tmp_path / "deep") == before
    assert [entry.name for entry in work.iterdir()] == ["data"]


def test_too_many_files_and_too_many_bytes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path / "pets.zip", pets())
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    with pytest.raises(PawprintError, match="more than 5 files"):
        ingest(source, tmp_path / "data")
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MAX_PHOTOGRAPH", 100)
    with pytest.raises(PawprintError, match=r"a file of .* bytes \(`cat/0.jpg`\)"):
        ingest(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_another_checksum_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    source = zipped(tmp_path / "pets.zip", pets())
    with pytest.raises(PawprintError, match="another checksum"):
        ingest(source, tmp_path / "data", sha256="0" * 64)
    with pytest.raises(PawprintError, match="64 hexadecimal digits"):
        ingest(source, tmp_path / "data", sha256="abc")
