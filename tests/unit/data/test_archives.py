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


def raw_tar(root: Path, *headers: bytes) -> Path:
    """A tar with these blocks before a photograph."""
    whole = tarred(root / "whole.tar", pets()).read_bytes()
    path = root / "pets.tar"
    path.write_bytes(b"".join(headers) + whole)
    return path


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """A tar's header with `size` as it stands there."""
    block = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def chained(root: Path) -> Path:
    """Two thousand long-name headers before one member."""
    one = header(b"././@LongLink", b"%011o\0" % 5, b"L") + b"a.jpg".ljust(512, b"\0")
    return raw_tar(root, one * 2000)


def pax(root: Path, record: bytes) -> Path:
    """A pax header of this record."""
    return raw_tar(root, header(b"pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0"))


NEGATIVE = b"\xff" * 11 + b"\x00"  # -256 in base 256


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
    "a tar with a member of negative size": (
        lambda root: raw_tar(root, header(b"cat/x.jpg", NEGATIVE, b"0")), "a member of -256 bytes|damaged"
    ),
    "a tar with a long name of negative size": (
        lambda root: raw_tar(root, header(b"././@LongLink", NEGATIVE, b"L")), "a header of -256 bytes|damaged"
    ),
    "a tar with a pax header of negative size": (
        lambda root: pax(root, b"12 size=-99\n"), "a member of -99 bytes|makes no sense|damaged"
    ),
    "a tar with a bad pax length": (lambda root: pax(root, b"999 path=x.jpg\n"), "a zero byte|damaged"),
    "a tar with a pax size that is no number": (lambda root: pax(root, b"12 size=abc\n"), "outside|damaged|sense|zip"),
    "a tar with chained headers": (chained, "hundreds of headers"),
    "an empty file": (lambda root: unpacked(root, {"pets.zip": b""}) / "pets.zip", "no zip or tar"),
    "a text": (lambda root: unpacked(root, {"pets.zip": b"hello"}) / "pets.zip", "no zip or tar"),
    "photographs without a class": (
        lambda root: zipped(root / "pets.zip", {"1.jpg": small(1), "2.jpg": small(2)}), "which class.*Oxford's"
    ),
    "a camera's names in a folder `images`": (
        lambda root: zipped(root / "pets.zip", {"images/IMG_1.jpg": small(1), "images/dsc_2.jpg": small(2)}),
        "--layout names",
    ),
    "no photographs": (lambda root: zipped(root / "pets.zip", {"a.txt": b"x"}), "no photographs.*Microsoft's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsafe_or_damaged_is_refused_and_data_stays(tmp_path: Path, name: str) -> None:
    make, output = REFUSED[name]
    work = tmp_path / "deep" / "deeper" / "work"
    data = unpacked(work / "data", pets(900) | {"dataset.json": b'{"name": "before"}'})
    before = contents(tmp_path / "deep")
    source = make(tmp_path)
    with pytest.raises(PawprintError, match=output) as refused:
        ingest(source, data)
    assert "\n" not in str(refused.value) or "--layout" in output
    assert contents(tmp_path / "deep") == before
    with pytest.raises(PawprintError, match=output):
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


def test_windows_zips_are_read(tmp_path: Path) -> None:
    """Backslashes between folders, and names in the code page of a language, without a word of which."""
    for page, cat, dog in (("cp932", "猫", "犬の写真"), ("gbk", "猫", "狗的照片"), ("utf-8", "кошка", "собака")):
        path = tmp_path / f"{page}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for n in range(6):
                entry = OldInfo("x")
                entry.filename = f"{cat if n % 2 else dog}\\{cat}{n}.jpg".encode(page).decode("cp437")
                archive.writestr(entry, small(n))
        if page != "utf-8":
            with pytest.raises(PawprintError, match=f"--encoding {page}: {dog}"):
                ingest(path, tmp_path / page / "data")
            with pytest.raises(PawprintError, match="not ascii"):
                ingest(path, tmp_path / page / "data", encoding="ascii")
        taken = ingest(path, tmp_path / page / "data", encoding="" if page == "utf-8" else page)
        assert set(taken.dataset.classes) == {cat, dog}
        assert f"{cat}1.jpg" in {file.name for _, file in taken.dataset.photographs}


class OldInfo(zipfile.ZipInfo):
    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("cp437"), self.flag_bits & ~0x800
