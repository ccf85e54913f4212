"""The prepared set: what is rejected and why, the same bytes always, and that a kill costs nothing but time."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odd_pictures import animation, jpeg_claiming, photograph, png16, png_bomb, saved, scene, with_exif
from pawprint import image
from pawprint.config import Params, load_params
from pawprint.data import build, ingest, manifest, shards
from pawprint.data.build import Report, prepare
from pawprint.data.dataset import PreparedDataset
from pawprint.data.splits import SPLITS, split_of
from pawprint.errors import PawprintError

ROOT = Path(__file__).parents[3]


def params(**changes: object) -> Params:
    loaded = load_params(ROOT / "params.yaml")
    asked = {"max_bad_share": 1.0} | changes
    return loaded.model_copy(update={"preprocess": loaded.preprocess.model_copy(update=asked)})


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def made(data: Path, out: Path, **changes: object) -> Report:
    return prepare(ingest.dataset(data), data, out, params(**changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def logical(folder: Path) -> dict[str, object]:
    """All that a prepared set holds, wherever its members lie; every member of a shard is a row's."""
    rows = list(PreparedDataset.open(folder).rows)
    held = {}
    for path in (folder / "shards").glob("*.tar"):
        with tarfile.open(path) as shard:
            for entry in shard:
                assert entry.name not in held
                held[entry.name] = (path.name, entry.offset_data, shard.extractfile(entry).read())  # type: ignore[union-attr]
    assert {f"{row.hash}.jpg": (row.shard, row.offset) for row in rows} == {n: one[:2] for n, one in held.items()}
    report = json.loads((folder / "report.json").read_bytes())
    del report["manifest"]
    return {
        "digest": manifest.digest(manifest.read(folder / manifest.FILE)),
        "members": {name: one[2] for name, one in held.items()},
        "cuts": (folder / build.CUTS).read_bytes(),
        "report": report,
    }


def pets(folder: Path, count: int = 40) -> Path:
    small = {"width": 120, "height": 90}
    return write(folder, {f"{'cat' if n % 2 else 'dog'}/{n}.jpg": photograph(n, **small) for n in range(count)})


def reasons(report: Report) -> dict[str, str]:
    return {one["path"]: one["reason"] for one in report["rejected"]}


def test_each_bad_file_is_rejected_by_name_and_reason(tmp_path: Path) -> None:
    bad = {
        "cat/empty.jpg": (b"", "empty"),
        "cat/page.jpg": (b"<html>not found</html>", "not_an_image"),
        "cat/cut.jpg": (photograph(101, width=300, height=300)[:8000], "truncated"),
        "dog/blank.jpg": (saved(Image.new("RGB", (200, 200), (3, 3, 3))), "blank"),
        "dog/tiny.png": (saved(scene(102, 8, 8), "PNG"), "tiny"),
        "dog/huge.png": (saved(scene(103, 400, 400), "PNG"), "too_large"),
        "dog/bomb.png": (png_bomb(), "too_large"),
        "dog/bomb.jpg": (jpeg_claiming(65_000, 65_000), "too_large"),
        "dog/fog.jpg": (saved(Image.effect_noise((300, 200), 2).convert("RGB"), quality=90), "blank"),
        "dog/line.png": (saved(scene(104, 900, 9), "PNG"), "tiny"),
        "cat/zero.png": (png_bomb(0, 0), "not_an_image"),
        "cat/zero.jpg": (jpeg_claiming(0, 0), "not_an_image"),
        "cat/zeros.jpg": (bytes(5000), "not_an_image"),
    }
    data = write(pets(tmp_path / "data"), {name: content for name, (content, _) in bad.items()})
    report = made(data, tmp_path / "out", max_pixels=150_000)
    assert reasons(report) == {name: reason for name, (_, reason) in bad.items()}
    assert report["photographs"] == 40
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in bad)
    assert "http" not in page.replace("<html>", "")  # nothing is fetched


def test_what_is_converted_is_flagged_and_counted(tmp_path: Path) -> None:
    flagged = {
        "cat/a.jpg": (saved(scene(1).convert("CMYK")), "cmyk"),
        "cat/b.jpg": (saved(scene(2).convert("L")), "grey"),
        "cat/c.png": (saved(scene(3).convert("RGBA"), "PNG"), "alpha"),
        "dog/d.png": (png16(np.asarray(scene(4).convert("L"), np.uint16) * 257), "deep 16-bit"),
        "dog/e.jpg": (with_exif(6), "rotated"),
        "dog/f.gif": (animation(), "animated"),
        "dog/g.jpg": (saved(scene(5), "PNG"), "wrong_extension"),
        "dog/h.JPEG": (photograph(6), ""),
    }
    data = write(tmp_path / "data", {name: content for name, (content, _) in flagged.items()})
    report = made(data, tmp_path / "out")
    assert report["rejected"] == [] or reasons(report) == {"dog/e.jpg": "near_copy"}  # the GIF shows the same colours
    found = {row.origin: row.flags for row in manifest.read(tmp_path / "out" / manifest.FILE)}
    for name, flags in found.items():
        assert flags == flagged[name][1], name
    assert report["flags"]["cmyk"] == 1


def test_the_same_file_twice_is_used_once_and_under_two_labels_never(tmp_path: Path) -> None:
    data = write(
        pets(tmp_path / "data"),
        {
            "cat/x.jpg": photograph(807),
            "cat/y.jpg": photograph(807),
            "cat/z.jpg": photograph(808),
            "dog/z.jpg": photograph(808),
        },
    )
    report = made(data, tmp_path / "out")
    assert reasons(report) == {"cat/y.jpg": "copy", "cat/z.jpg": "two_labels", "dog/z.jpg": "two_labels"}


def test_a_near_copy_on_another_split_is_kept_out_of_validation_and_test_and_never_moved(tmp_path: Path) -> None:
    def smaller(seed: int) -> bytes:
        return saved(scene(seed).resize((400, 300), Image.Resampling.LANCZOS), quality=70)

    def pair(first: str, second: str) -> int:
        split = params().split
        return next(
            n
            for n in range(1000, 3000)
            if split_of(hashlib.sha256(photograph(n)).hexdigest(), 2017, split) == first
            and split_of(hashlib.sha256(smaller(n)).hexdigest(), 2017, split) == second
        )

    files = {}
    for name, first, second in (("tt", "train", "train"), ("tv", "train", "test"), ("vv", "test", "test")):
        seed = pair(first, second)
        files |= {f"cat/{name}1.jpg": photograph(seed), f"cat/{name}2.jpg": smaller(seed)}
    twin = pair("train", "train")
    files |= {"cat/twin.jpg": photograph(twin + 5000), "dog/twin.jpg": smaller(twin + 5000)}
    before = made(write(pets(tmp_path / "data"), {}), tmp_path / "out")
    report = made(write(tmp_path / "data", files), tmp_path / "out")
    assert reasons(report) == {"cat/tv2.jpg": "near_copy", "cat/twin.jpg": "two_labels", "dog/twin.jpg": "two_labels"}
    assert report["photographs"] == before["photographs"] + 5
    # other readers of the shards do not see them either
    assert len(logical(tmp_path / "out")["members"]) == report["photographs"]  # type: ignore[arg-type]


def test_too_many_bad_ones_fail_and_leave_what_was_there(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)
    before = contents(out)
    write(data, {f"cat/bad{n}.jpg": b"" for n in range(5)})
    with pytest.raises(
        PawprintError, match=r"5 of 45 photographs are rejected \(11\.1%.*max_bad_share.*5 empty.*bad0\.jpg"
    ):
        made(data, out, max_bad_share=0.1)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def fixed_camera(folder: Path, count: int) -> Path:
    """One scene; a defect is a small mark on it."""
    background, rng = np.asarray(scene(3, 300, 300)), np.random.default_rng(3)
    for n in range(count):
        pixels = np.clip(background + rng.normal(0, 3, background.shape), 0, 255).astype(np.uint8)
        if n % 2:
            pixels[140:146, 140:146] = 255
        write(folder, {f"{('ok', 'defect')[n % 2]}/{n}.jpg": saved(Image.fromarray(pixels), quality=92)})
    return folder


def test_a_camera_that_never_moves_gives_a_warning_and_not_an_empty_set(tmp_path: Path) -> None:
    data = fixed_camera(tmp_path / "data", 40)
    report = made(data, tmp_path / "out", max_bad_share=0.05)
    assert report["rejected"] == []
    assert report["photographs"] == 40
    assert "40 of 40 photographs look like one of another class" in report["warnings"][0]
    assert report["warnings"][0] in (tmp_path / "out" / "report.html").read_text()
    write(data, {"ok/same.jpg": (data / "defect" / "1.jpg").read_bytes()})  # the same bytes: still two labels
    assert reasons(made(data, tmp_path / "out")) == {"ok/same.jpg": "two_labels", "defect/1.jpg": "two_labels"}
    quiet = made(data, tmp_path / "out", near_copy_bits=0)
    assert (len(quiet["rejected"]), quiet["warnings"]) == (2, [])
    pets(data, 60)  # less than half of the set: rejected as before
    for share in (1.0, 0.05):
        with pytest.raises(PawprintError, match=r"`preprocess.near_copy_bits: 0` turns"):
            made(data, tmp_path / "out", max_bad_share=share)


def test_what_cannot_be_learned_and_tested_is_refused_before_a_training(tmp_path: Path) -> None:
    asked = params(min_class=3)
    data = pets(tmp_path / "data", 40)
    build.refuse_untrainable(made(data, tmp_path / "out"), asked, tmp_path / "out")
    few = write(data, {f"fox/{n}.jpg": photograph(n + 700) for n in range(2)})
    with pytest.raises(PawprintError, match="class `fox` has 2 usable photographs; 3 are the least"):
        build.refuse_untrainable(made(few, tmp_path / "out"), asked, tmp_path / "out")
    tested = [n for n in range(900, 1000) if split_of(digest_of(n), 2017, asked.split) != "test"][:8]
    write(data, {f"fox/{n}.jpg": photograph(n) for n in tested})
    for n in range(2):
        (data / "fox" / f"{n}.jpg").unlink()
    with pytest.raises(
        PawprintError, match=r"class `fox` has no photograph in test .*with `seed: \d+` every"
    ) as refused:
        build.refuse_untrainable(made(data, tmp_path / "out"), asked, tmp_path / "out")
    seed = int(str(refused.value).partition("`seed: ")[2].partition("`")[0])
    changed = params(min_class=3).model_copy(update={"seed": seed})
    build.refuse_untrainable(prepare(ingest.dataset(data), data, tmp_path / "out", changed), changed, tmp_path / "out")
    six = pets(tmp_path / "six", 6)
    with pytest.raises(PawprintError, match="3 usable photographs; 10 are the least"):
        build.refuse_untrainable(made(six, tmp_path / "out"), params(), tmp_path / "out")


def test_a_class_that_the_source_s_own_test_side_lacks_is_not_asked_for_a_larger_share(tmp_path: Path) -> None:
    pets(tmp_path / "source" / "train", 40)
    write(tmp_path / "source" / "test" / "cat", {f"{n}.jpg": photograph(n + 300) for n in range(4)})
    data, asked = tmp_path / "data", grouped("", keep_test=True)
    ingest.ingest(tmp_path / "source", data)
    with pytest.raises(PawprintError, match=r"class `dog` has no .* in test .*own test side.*`split.keep_test: false`"):
        build.refuse_untrainable(prepare(ingest.dataset(data), data, tmp_path / "out", asked), asked, tmp_path / "out")


def grouped(pattern: str, **changes: object) -> Params:
    asked = params(min_class=3)
    return asked.model_copy(update={"split": asked.split.model_copy(update={"group": pattern} | changes)})


def test_photographs_of_a_group_share_a_split_and_the_manifest_holds_it(tmp_path: Path) -> None:
    small = {"width": 120, "height": 90}
    animals = {f"{'cat' if n % 2 else 'dog'}/animal{n}_{i}.jpg": photograph(9 * n + i, **small)
               for n in range(12) for i in range(4)}  # fmt: skip
    data, asked = write(tmp_path / "data", animals), grouped(r"(animal\d+)_")
    report = prepare(ingest.dataset(data), data, tmp_path / "out", asked)
    opened = PreparedDataset.open(tmp_path / "out")
    splits: dict[str, set[str]] = {}
    for row in opened.rows:
        assert row.group == Path(row.origin).stem.split("_")[0]
        splits.setdefault(row.group, set()).add(row.split)
    assert (report["groups"], opened.groups, len(splits), report["warnings"]) == (12, 12, 12, [])
    assert all(len(found) == 1 for found in splits.values())
    made(data, tmp_path / "content", min_class=3)
    by_content = PreparedDataset.open(tmp_path / "content")
    assert any(a.split != b.split for a, b in zip(opened.rows, by_content.rows, strict=True))
    # What was packed is used again; its split is the one of its group.
    again = prepare(ingest.dataset(data), data, tmp_path / "content", asked)
    assert contents(tmp_path / "content") == contents(tmp_path / "out")
    assert again == report


def test_a_pattern_that_matches_nothing_is_an_error_and_one_that_misses_some_a_warning(tmp_path: Path) -> None:
    data = pets(tmp_path / "data")
    with pytest.raises(PawprintError, match=r"`split.group` \(animal.*matches the name of no photograph, such as"):
        prepare(ingest.dataset(data), data, tmp_path / "out", grouped(r"animal\d+"))
    write(data, {f"cat/animal7_{i}.jpg": photograph(500 + i) for i in range(3)})
    report = prepare(ingest.dataset(data), data, tmp_path / "out", grouped(r"animal\d+"))
    assert "40 of 43 photographs are of no group" in report["warnings"][0]
    with pytest.raises(ValueError, match="no regular expression"):
        grouped("").split.model_validate({"group": "(animal"})


def test_a_group_that_the_source_has_on_both_sides_is_an_error(tmp_path: Path) -> None:
    source = pets(tmp_path / "source" / "train", 20)
    pets(tmp_path / "source" / "test", 20)
    for file in (tmp_path / "source" / "test").rglob("*.jpg"):
        file.write_bytes(photograph(int(file.stem) + 300, width=120, height=90))
    data = tmp_path / "data"
    ingest.ingest(source.parent, data)
    with pytest.raises(PawprintError, match=r"group `[0-9]`.* under test and some not.*`split.keep_test: false`"):
        prepare(ingest.dataset(data), data, tmp_path / "out", grouped(r"/(\d)[.-]", keep_test=True))


def digest_of(seed: int) -> str:
    return hashlib.sha256(photograph(seed)).hexdigest()


def test_a_class_with_nothing_usable_is_named(tmp_path: Path) -> None:
    data = write(pets(tmp_path / "data", 10), {"fox/1.jpg": b""})
    with pytest.raises(PawprintError, match="No photograph of `fox`"):
        made(data, tmp_path / "out")


def test_the_same_photographs_give_the_same_rows_and_members_whatever_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added to, removed from, another parameter's leftovers, damaged leftovers, one worker: always a full run's, but
    for the place of a member in the shards."""
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, tmp_path / "full")
    full = logical(tmp_path / "full")
    for number in range(0, 40, 9):
        (data / ("cat" if number % 2 else "dog") / f"{number}.jpg").rename(tmp_path / f"{number}.jpg")
    made(data, out)
    for number in range(0, 40, 9):
        (tmp_path / f"{number}.jpg").rename(data / ("cat" if number % 2 else "dog") / f"{number}.jpg")
    made(data, out)
    assert logical(out) == full
    write(data, {"cat/more.jpg": photograph(77)})
    made(data, out)
    (data / "cat" / "more.jpg").unlink()
    made(data, out)
    assert logical(out) == full
    made(data, out, quality=40)
    assert logical(out) != full
    made(data, out)
    assert logical(out) == full
    shard = out / "shards" / "00000.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    made(data, out)
    assert logical(out) == full
    shard.write_bytes(shard.read_bytes() + b"more")
    made(data, out)
    assert logical(out) == full
    assert shard.read_bytes()[-4:] != b"more"
    (out / "report.json").write_text("{")
    made(data, out)
    assert logical(out) == full
    made(data, tmp_path / "other", quality=40)  # leftovers of another version under the right names
    shutil.copytree(tmp_path / "other" / "shards", out / "shards", dirs_exist_ok=True)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    made(data, out)
    assert logical(out) == full


def test_new_photographs_cost_what_they_are_and_shards_stay_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred photographs, then one more at a time: what was there is linked, and the newest are put together."""
    monkeypatch.setattr(shards, "SHARD", 16)
    monkeypatch.setattr(shards, "GENERATIONS", 4)
    data, out = pets(tmp_path / "data", 100), tmp_path / "out"
    made(data, out)

    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_ino, path.read_bytes()) for path in (out / "shards").iterdir()}

    first, written = state(), 0
    assert len(first) == 8
    for number in range(20):
        before = state()
        write(data, {f"cat/more{number}.jpg": photograph(3000 + number, width=120, height=90)})
        made(data, out)
        after = state()
        assert first.items() <= after.items()  # not copied: the same files
        written += sum(len(one[1]) for name, one in after.items() if before.get(name) != one)
        assert len(after) <= 8 + 4 + 1
    made(data, tmp_path / "full")
    assert logical(out) == logical(tmp_path / "full")
    assert written < sum(len(one[1]) for one in first.values())  # not twenty times the set
    # The same steps give the same bytes, and a photograph that goes is in no shard any more.
    whole = contents(out)
    made(data, out)
    assert contents(out) == whole
    (data / "cat" / "1.jpg").unlink()
    made(data, out)
    shutil.rmtree(tmp_path / "full")
    made(data, tmp_path / "full")
    assert logical(out) == logical(tmp_path / "full")
    assert sum(one == state().get(name) for name, one in first.items()) == 7


def test_a_disk_without_hard_links_has_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    shard = (out / "shards" / "00000.tar").read_bytes()
    write(data, {"cat/more.jpg": photograph(77)})
    assert made(data, out)["photographs"] == 41
    assert (out / "shards" / "00000.tar").read_bytes() == shard


def test_what_was_packed_is_used_again(tmp_path: Path) -> None:
    """A shard with its checksum changed to fit is believed: so nothing was packed anew."""
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    report = made(data, out)
    shard = out / "shards" / "00000.tar"
    with tarfile.open(shard) as archive:
        first = archive.next()
    assert first is not None
    changed = bytearray(shard.read_bytes())
    changed[first.offset_data + first.size - 3] ^= 1
    shard.write_bytes(changed)
    path = out / manifest.FILE
    rows = list(manifest.read(path))
    ends = first.offset_data + -(-first.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    rows[0] = rows[0]._replace(crc32=f"{zlib.crc32(changed[first.offset : ends]):08x}")
    manifest.write(path, rows)
    report["manifest"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / "report.json").write_text(json.dumps(report))
    made(data, out)
    assert shard.read_bytes() == changed


def test_hashes_of_cut_pictures_that_are_of_other_photographs_are_not_used(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)
    whole = logical(out)
    kept = np.load(out / build.CUTS)
    for other in (kept[1:], np.delete(kept, len(kept) // 2), kept[:0]):
        np.save(out / build.CUTS, other)
        made(data, out)
        assert logical(out) == whole


def test_shards_are_plain_tars_that_others_read_and_the_manifest_points_into(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)
    rows = list(manifest.read(out / manifest.FILE))
    assert [row.hash for row in rows] == sorted(row.hash for row in rows)
    with tarfile.open(out / "shards" / "00000.tar") as shard:
        assert shard.getnames() == [f"{row.hash}.jpg" for row in rows]
        for row, entry in zip(rows, shard.getmembers(), strict=True):
            assert (entry.offset_data, entry.size) == (row.offset, row.length)
            member = shard.extractfile(entry)
            assert member is not None
            assert member.read() == image.pack((data / row.origin).read_bytes())


def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 1)
    data, out = pets(tmp_path / "data", 100), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, before[1]))
        made(data, out)
        assert len(list((out / "shards").glob("*.tar"))) > 50
        (data / "cat" / "new.jpg").write_bytes(photograph(1000, width=120, height=90))
        assert made(data, out)["photographs"] == 101  # the rest is read from the shards before
        opened = PreparedDataset.open(out)
        assert sum(len(opened.split(name).images(range(len(opened.split(name))))) for name in SPLITS) == 101
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_shard_is_byte_for_byte_what_tarfile_writes(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)
    shard = out / "shards" / "00000.tar"
    with tarfile.open(shard) as ours, tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as theirs:
        for entry in ours.getmembers():
            fresh = tarfile.TarInfo(entry.name)
            fresh.size = entry.size
            theirs.addfile(fresh, ours.extractfile(entry))
    assert shard.read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_splits_never_change_as_the_set_grows(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data"), tmp_path / "out"
    made(data, out)

    def splits() -> dict[str, str]:
        opened = PreparedDataset.open(out)
        return {name: split for split in SPLITS for name in opened.split(split).hashes}

    before = splits()
    write(data, {f"cat/new{n}.jpg": photograph(900 + n, width=90, height=90) for n in range(30)})
    made(data, out)
    after = splits()
    assert len(after) == 70
    assert before.items() <= after.items()


KILLED = """
import sys
from pathlib import Path
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
root, data, out = map(Path, sys.argv[1:])
print("started", flush=True)
prepare(ingest.dataset(data), data, out, load_params(root / "params.yaml"))
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    data, out = pets(tmp_path / "data", 400), tmp_path / "out"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(ROOT), str(data), str(out)], stdout=subprocess.PIPE, text=True
        )

    assert start().wait() == 0
    full = contents(out)
    again = start()
    assert again.stdout is not None
    again.stdout.readline()
    began = time.monotonic()
    assert again.wait() == 0
    killed = 0
    for moment in np.linspace(0, time.monotonic() - began, 12):
        write(data, {"cat/extra.jpg": photograph(5)} if killed % 2 else {})
        process = start()
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        (data / "cat" / "extra.jpg").unlink(missing_ok=True)
        assert start().wait() == 0
        assert contents(out) == full
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert killed >= 3


DIES = """
import os, shutil, signal, sys
from pathlib import Path
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data import build
root, data, out, step = sys.argv[1:]
left = int(step)
def dying(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*args, **kwargs)
    return call
Path.rename, shutil.rmtree = dying(Path.rename), dying(shutil.rmtree)
build.prepare(ingest.dataset(Path(data)), Path(data), Path(out), load_params(Path(root) / "params.yaml"))
"""


@pytest.mark.slow
def test_killed_between_any_two_moves_the_old_or_the_new_set_comes_back_whole(tmp_path: Path) -> None:
    """SIGKILL right before each rename and each removal, the two in the exchange of old for new among them."""
    data, out = pets(tmp_path / "data", 12), tmp_path / "out"
    (data / "dog" / "0.jpg").rename(tmp_path / "0.jpg")
    made(data, out)
    (tmp_path / "0.jpg").rename(data / "dog" / "0.jpg")
    shutil.copytree(out, tmp_path / "full")
    made(data, tmp_path / "full")
    full = contents(tmp_path / "full")
    before, killed, missing = contents(out), 0, 0
    for step in range(20):
        shutil.rmtree(out)
        write(out, before)
        ended = subprocess.run([sys.executable, "-c", DIES, str(ROOT), str(data), str(out), str(step)], check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        killed += 1
        missing += not out.exists()
        assert not out.exists() or contents(out) in (before, full)
        (data / "dog" / "bad.jpg").write_bytes(b"")
        with pytest.raises(PawprintError):  # a run that fails brings the old one back, too
            made(data, out, max_bad_share=0.01)
        assert contents(out) in (before, full)
        (data / "dog" / "bad.jpg").unlink()
        made(data, out)
        assert contents(out) == full
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "full", "out"]
    assert killed >= 5
    assert missing == 1
