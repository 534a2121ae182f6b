"""Fetching a dataset: unetv2 download NAME --data DIR

Every archive is kept beside its `.sha256`: the published checksum, or that of the first download
where none is published. What is there and agrees is not fetched again; what is cut off is thrown
away and fetched anew.
"""

import argparse
import shutil
import stat
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import pooch
import requests

from ..common import env
from ..common.errors import unknown
from ..common.files import write_text
from .readers import data_root, find, registry

__all__ = ["download", "fetch", "unpack"]


def download(name: str, data_dir: str | Path | None = None) -> Path:
    """Fetch and unpack dataset `name` into `data_dir`/`name`, and return that folder.

    Raises:
        ValueError: unknown name, a wrong checksum, an archive that is damaged or has paths outside
            its folder.
        LookupError: the set has no direct link; the message is the page of instructions.
        OSError: no network, or the folder cannot be written.
    """
    if name not in registry():
        raise unknown("dataset to download", name, registry())
    entry, root = registry()[name], data_root(data_dir)
    if not entry["urls"]:
        raise LookupError(
            f"{entry['title']}: no direct link.\n{' '.join(entry['manual'].split())}\n"
            f"  DIR      {root}\n  source   {entry['source']}\n"
            f"  licence  {entry['licence']}\n  cite     {entry['citation']}"
        )
    for item in entry["urls"]:
        unpack(
            fetch(item["url"], root / name / "archives", item["sha256"]),
            root / name / item.get("unpack", "."),
        )
    return root / name


def fetch(url: str, folder: Path, sha256: str | None = None, tries: int = 3) -> Path:
    """The file at `url` in `folder`, with its checksum agreed; a progress bar shows the way.
    Partial files are removed.

    Raises:
        ValueError: the checksum is not the published or recorded one.
        OSError: not reachable, cut off `tries` times, or the folder cannot be written.
    """
    path = folder / PurePosixPath(url.partition("?")[0]).name
    record = path.with_name(path.name + ".sha256")
    if record.is_file():
        sha256 = sha256 or record.read_text(encoding="utf-8").split()[0]
    elif path.is_file():
        path.unlink()  # without a record nobody knows that it is whole
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=60)
    for turn in range(tries):
        try:
            pooch.retrieve(
                url,
                f"sha256:{sha256}" if sha256 else None,
                path.name,
                folder,
                downloader=downloader,
            )
            break
        except requests.HTTPError as error:
            raise OSError(
                f"cannot fetch {url}: {error}; has it moved? See its source in data/registry.yaml"
            ) from None
        except requests.RequestException as error:  # refused, or cut off on the way
            if turn == tries - 1:
                raise OSError(
                    f"cannot fetch {url}: {error}; check the network, then start again"
                ) from None
        except ValueError as error:  # the wrong checksum; pooch has removed the file
            hint = f"Damaged on the way, or changed at its source (to accept that, delete {record})"
            raise ValueError(f"{url}: {error} {hint}") from None
    write_text(record, f"{sha256 or pooch.file_hash(str(path), alg='sha256')}  {path.name}\n")
    return path


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip into `target`, all of it or nothing.

    Raises:
        ValueError: not a zip, a damaged member, or a member that points outside `target`.
    """
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        try:
            with zipfile.ZipFile(archive) as content:
                for member in content.infolist():
                    where = PurePosixPath(member.filename.replace("\\", "/"))
                    outside = where.is_absolute() or ".." in where.parts
                    outside |= ":" in "".join(where.parts[:1])  # a drive; `./` has no parts
                    if outside or stat.S_ISLNK(member.external_attr >> 16):
                        raise ValueError(
                            f"{archive}: will not unpack {member.filename!r}: "
                            f"points outside {target}"
                        )
                content.extractall(temporary)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{archive} is damaged: {error}; delete it and its .sha256, and fetch it again"
            ) from None
        shutil.copytree(temporary, target, dirs_exist_ok=True, copy_function=shutil.move)


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="unetv2 download", description="Fetch a dataset.")
    parser.add_argument("name", help=", ".join(registry()))
    where = "folder for the datasets (or set DATA_DIR; else the repository's data)"
    parser.add_argument("--data", type=env.here, help=where)
    options = parser.parse_args(argv)
    try:
        folder = download(options.name, options.data)
        pairs = find(options.name, options.data).pairs
    except (LookupError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    entry = registry()[options.name]
    print(f"{options.name}: {len(pairs)} image and mask pairs in {folder}")
    print(f"licence: {entry['licence']}; please cite {entry['citation']}")
