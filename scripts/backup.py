"""A copy of everything that cannot be made again, and the way back (docs/backups.md).

python scripts/backup.py save /backups/monday            this workspace: runs, registry, artifacts, DVC's cache
python scripts/backup.py restore /backups/monday
python scripts/backup.py save /backups/monday --database postgresql://.../mlflow --bucket s3://mlflow --bucket s3://dvc

A backup is whole or not there, and is checked file by file before anything of it is put back. Databases are copied
before artifacts, so that whatever a copied row names has been written; people may go on working meanwhile.
PostgreSQL's `pg_dump` and `pg_restore` read PGPASSWORD, the S3 client AWS_*.
"""

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from pawprint.errors import PawprintError
from pawprint.lineage import sha256

RUNS = "mlflow.db"
# by DVC's cache and dvc.lock come data, models and reports; the journals are what MLflow does not have yet
KEPT = ("mlartifacts", ".dvc/cache", "dvc.lock", "data.dvc", "champion.json", "bento.json", "cache/journals")
MANIFEST = "manifest.json"


def save(root: Path, out: Path, databases: list[str], buckets: list[str]) -> int:
    """Copy to the new folder `out`; the number of files."""
    if out.exists():
        raise PawprintError(f"{out} is there already. Name a new folder for each backup.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    for url in databases:
        (partial / "databases").mkdir(exist_ok=True)
        _call("pg_dump", "--format=custom", f"--file={partial / 'databases' / _name(url)}", f"--dbname={url}")
    if (root / RUNS).exists():
        with (
            contextlib.closing(sqlite3.connect(root / RUNS)) as source,
            contextlib.closing(sqlite3.connect(partial / RUNS)) as target,
        ):
            source.backup(target)  # whole also where somebody writes
    for name in KEPT:
        _copy(root / name, partial / "workspace" / name)
    for bucket in buckets:
        place = partial / "buckets" / _name(bucket)
        place.mkdir(parents=True)
        if _s3().find(bucket):
            _s3().get(f"{bucket}/", f"{place}/", recursive=True)
    files = {str(path.relative_to(partial)): sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    (partial / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    partial.rename(out)
    return len(files)


def restore(root: Path, kept: Path, databases: list[str], buckets: list[str], force: bool) -> int:
    """Put everything of a backup back; the number of files.

    Raises:
        PawprintError: The backup is damaged, or there is something here that would be replaced.
    """
    files = _checked(kept)
    for name in (RUNS, "mlartifacts"):
        if (root / name).exists() and not force:
            raise PawprintError(f"{root / name} is there. Move it away, or say --force to replace it by the backup's.")
    for bucket in buckets:
        place = kept / "buckets" / _name(bucket)
        if not place.is_dir():
            raise PawprintError(f"{kept} has no bucket {_name(bucket)}. Leave it out, or take another backup.")
        with contextlib.suppress(FileExistsError):
            _s3().mkdir(bucket)
        if any(place.iterdir()):
            _s3().put(f"{place}/", f"{bucket}/", recursive=True)
    for name in KEPT:
        _copy(kept / "workspace" / name, root / name)
    if (kept / RUNS).exists():
        for left in (f"{RUNS}-wal", f"{RUNS}-shm"):
            (root / left).unlink(missing_ok=True)
        _copy(kept / RUNS, root / RUNS)
    for url in databases:  # last: a row never names what is not there yet
        dump = kept / "databases" / _name(url)
        if not dump.exists():
            raise PawprintError(f"{kept} has no database {_name(url)}. Leave it out, or take another backup.")
        _call("pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", f"--dbname={url}", dump)
    return len(files)


def _checked(kept: Path) -> dict[str, str]:
    try:
        files: dict[str, str] = json.loads((kept / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise PawprintError(f"{kept} is no backup: it has no {MANIFEST}.") from None
    for name, digest in files.items():
        if not (kept / name).is_file() or sha256(kept / name) != digest:
            raise PawprintError(f"{kept / name} is missing or not as it was saved. Take another backup.")
    return files


def _copy(source: Path, target: Path) -> None:
    """A file or folder; nothing where there is none. What is only in the target stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, copy_function=_over)
    elif source.exists():
        _over(source, target)


def _over(source: str | Path, target: str | Path) -> None:
    """Also over a file that may not be written, as those of DVC's cache are."""
    Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target)


def _name(url: str) -> str:
    parts = urlsplit(url)
    return (parts.netloc if parts.scheme == "s3" else parts.path.strip("/")) or "default"


def _s3():  # type: ignore[no-untyped-def]
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))


def _call(*words: object) -> None:
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PawprintError(f"{words[0]} is not here. Install PostgreSQL's client (postgresql-client).") from None
    if done.returncode != 0:
        raise PawprintError(f"{words[0]} failed: {' '.join(done.stderr.split())}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the workspace (default: here)")
    parser.add_argument("--database", action="append", default=[], metavar="URL", help="a PostgreSQL database, too")
    parser.add_argument("--bucket", action="append", default=[], metavar="s3://NAME", help="an S3 bucket, too")
    parser.add_argument("--force", action="store_true", help="restore over runs that are there")
    given = parser.parse_args()
    try:
        if given.verb == "save":
            count = save(given.root.resolve(), given.folder.resolve(), given.database, given.bucket)
            print(f"{count} files in {given.folder}")
        else:
            count = restore(given.root.resolve(), given.folder.resolve(), given.database, given.bucket, given.force)
            print(f"{count} files of {given.folder} are back")
    except PawprintError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
