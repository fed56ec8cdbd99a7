"""Fetch files from the network: bounded in size and time, and held against their sha256."""

import hashlib
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pandas as pd

from analysis.downloads.sources import GITHUB, Collection
from analysis.solve.progress import OnProgress, no_progress
from scaling import __version__
from scaling.schema import destination, sha256_file, write_text

MOST_BYTES = 16 << 20  # of one file; the largest that we fetch has 3.7 MB
SILENCE_SECONDS = 30.0  # without a byte, after which a file is given up
LONGEST_SECONDS = 300.0  # of one file
PIECE = 1 << 16  # bytes read at a time
CONNECTIONS = 4  # at a time: Gadre's runs are 104 small files
AGENT = f"scaling-laws/{__version__}"


def fetch_collection(
    collection: Collection,
    folder: str | Path,
    *,
    base: str = GITHUB,
    on_progress: OnProgress = no_progress,
) -> dict[str, str]:
    """Fetch the files of a collection, convert them, and write its tables into a folder.

    collection: what is fetched
    folder: where the tables are written
    base: address that stands for https://raw.githubusercontent.com, as that of a mirror
    on_progress: takes (stage, done, total) while files arrive

    Returns `written` or `already there` for each table. A table is written once it is whole and has
    the sha256 of ours. Raises ValueError for a file or table of another content, and for a table's
    name that another file has; OSError where a file cannot be fetched or written.
    """
    paths = {name: Path(folder) / name for name in collection.tables}
    missing = [n for n, path in paths.items() if not _is_there(path, collection.tables[n])]
    if not missing:
        return dict.fromkeys(paths, "already there")
    texts = collection.convert(_fetch_all(collection, base, on_progress))
    for name in missing:
        _check_table(name, texts[name], collection.tables[name])
    for name in missing:
        write_text(paths[name], texts[name])
    return {name: "written" if name in missing else "already there" for name in paths}


def check_base(base: str) -> str:
    """Return the address of a mirror without a slash at its end; ValueError for no http address."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{base!r} is no address of a mirror; give one as https://HOST/PATH")
    return base.rstrip("/")


def fetch_file(address: str, sha256: str) -> bytes:
    """Return the bytes of a file of the network whose sha256 is known.

    Raises OSError where it does not arrive whole and in time, ValueError where it is larger than
    MOST_BYTES or has another content.
    """
    try:
        with urlopen(
            Request(address, headers={"User-Agent": AGENT}), timeout=SILENCE_SECONDS
        ) as got:
            data, said = _read(got, address), got.headers.get("Content-Length")
    except HTTPError as error:
        error.close()
        raise OSError(
            f"{address} answers {error.code} {error.reason}, not the file; the server may refuse "
            "or lack it: try again later, or name a mirror by --mirror"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{address} cannot be reached ({_why(error)}); check the network and the proxy "
            "(HTTPS_PROXY), or name a mirror by --mirror"
        ) from error
    if said is not None and said.isdecimal() and int(said) != len(data):
        raise OSError(
            f"{address} broke off after {len(data):,} of {int(said):,} bytes; run the command again"
        )
    _check(data, sha256, address)
    return data


def _fetch_all(collection: Collection, base: str, on_progress: OnProgress) -> dict[str, bytes]:
    """Fetch all files, a few at a time; the first error ends it."""
    contents: dict[str, bytes] = {}
    stage, total = f"files of {collection.repository}", len(collection.files)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        addresses = (collection.address(path, base) for path in collection.files)
        try:
            arriving = pool.map(fetch_file, addresses, collection.files.values())
            for path, data in zip(collection.files, arriving, strict=True):
                contents[path] = data
                on_progress(stage, len(contents), total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return contents


def _read(got: Any, address: str) -> bytes:
    """Read an answer in pieces, within the limits of size and time."""
    pieces, size, began = [], 0, time.monotonic()
    while piece := got.read1(PIECE):
        size += len(piece)
        pieces.append(piece)
        if size > MOST_BYTES:
            raise ValueError(
                f"{address} sends more than {MOST_BYTES:,} bytes, which the published file has not;"
                " check the mirror"
            )
        if time.monotonic() - began > LONGEST_SECONDS:
            raise TimeoutError(f"{size:,} bytes in {LONGEST_SECONDS:g} s")
    return b"".join(pieces)


def _is_there(path: Path, sha256: str) -> bool:
    """Say whether a table lies there already; ValueError where another file has its name."""
    destination(path)
    if not path.exists():
        return False
    if (found := sha256_file(path)) != sha256:
        raise ValueError(
            f"{path} is another file (sha256 {found[:12]}.., the published table has "
            f"{sha256[:12]}..); move it away, or name another folder"
        )
    return True


def _check(data: bytes, sha256: str, what: str) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(
            f"{what} has the sha256 {found}, where {sha256} is expected; it is not the published "
            "content, and nothing was written: check the mirror, or run the command again"
        )


def _check_table(name: str, text: str, sha256: str) -> None:
    """Refuse a table that came out otherwise, though its files are those that were published."""
    if (found := hashlib.sha256(text.encode()).hexdigest()) != sha256:
        raise ValueError(
            f"{name} comes out with the sha256 {found} from the published files, where {sha256} is "
            f"expected, and was not written: report it with your pandas ({pd.__version__})"
        )


def _why(error: BaseException) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return " ".join(str(reason).split()) or type(error).__name__
