"""Fetch published tables of training runs, and write them as CSV.

    scaling published_tables FOLDER [--mirror URL]

The tables are those that the benchmarks and tests of the project read: Besiroglu et al. 2024,
Porian et al. 2024, Gadre et al. 2024 and Muennighoff et al. 2023. They come from pinned commits of
their authors' repositories on GitHub. The command compares the sha256 of every file and of every
table with the known one, runs nothing of what it downloads, and says which licence each repository
states. A table that is there already stays. $SCALING_MIRROR is the default of --mirror.
"""

import argparse
import os
import sys

from analysis.downloads.sources import COLLECTIONS, GITHUB
from analysis.downloads.transfer import check_base, fetch_collection
from analysis.solve.progress import progress_on_stderr
from scaling import VERSION_LINE
from scaling.app.application import log_to, one_sentence
from scaling.app.positional import Parser

MIRROR = "SCALING_MIRROR"  # the variable of the environment that names a mirror


def main() -> int:
    """Fetch what is missing; return the exit status."""
    with one_sentence(full=os.environ.get("HYDRA_FULL_ERROR") == "1"):
        log_to()
        arguments = parse_arguments()
        fetch(arguments.folder, check_base(arguments.mirror))
        return 0
    return 1


def parse_arguments() -> argparse.Namespace:
    """Return the folder and the options of the command line."""
    parser = Parser(
        prog="scaling published_tables",
        right_form="give one folder, as FOLDER",
        description=__doc__,
        epilog="`python -m analysis.published_tables` is the same command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="the folder that the tables are written to")
    parser.add_argument(
        "--mirror",
        default=os.environ.get(MIRROR) or GITHUB,
        metavar="URL",
        help=f"address of a copy of {GITHUB}, with the same paths below it",
    )
    parser.add_argument("--version", action="version", version=VERSION_LINE)
    return parser.parse_args()


def fetch(folder: str, base: str) -> None:
    """Fetch every collection; one block of lines for each says what came, from where."""
    for collection in COLLECTIONS:
        head = f"{collection.paper}: {collection.repository} @ {collection.commit[:7]}"
        sys.stderr.write(f"{head}, {collection.terms}\n")
        done = fetch_collection(collection, folder, base=base, on_progress=progress_on_stderr())
        for name, state in done.items():
            sys.stdout.write(f"{state:13}  {os.path.join(folder, name)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
