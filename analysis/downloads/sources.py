"""The published tables that we fetch: repository, commit, files, licence and resulting CSVs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from analysis.downloads import convert

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The tables of one paper, and the files of its repository that they are made from.

    paper: authors, year and arXiv number
    repository: owner/name on GitHub
    commit: the commit that is fetched, 40 hex digits
    licence: the licence that the repository states, empty where it states none
    files: sha256 of each file by its path in the repository
    convert: takes the files' bytes by path, returns the text of each table by its name
    tables: sha256 of each table by its name
    """

    paper: str
    repository: str
    commit: str
    licence: str
    files: Mapping[str, str]
    convert: Callable[[Mapping[str, bytes]], dict[str, str]]
    tables: Mapping[str, str]

    def address(self, path: str, base: str = GITHUB) -> str:
        """Return the address of a file."""
        return f"{base}/{self.repository}/{self.commit}/{quote(path, safe='/=')}"

    @property
    def terms(self) -> str:
        """Say under which licence the tables come."""
        return (
            f"licence {self.licence}"
            if self.licence
            else "the repository states no licence: use the tables yourself, do not pass them on"
        )


def listed(name: str) -> dict[str, str]:
    """Return {path: sha256} of a list in this folder, written as sha256sum writes it."""
    text = (files("analysis.downloads") / name).read_text(encoding="utf-8")
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {path: digest for digest, path in pairs}


COLLECTIONS = (
    Collection(
        paper="Besiroglu et al. 2024 (2404.10102), points of Hoffmann et al. 2022",
        repository="epoch-research/analyzing-chinchilla",
        commit="92258837425e1b5f2851d624287f0120583a3d0e",
        licence="",
        files={
            "data/svg_extracted_data.csv": (
                "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30"
            )
        },
        convert=convert.epoch,
        tables={
            "chinchilla_epoch245.csv": (
                "1e4f5b0ad9b74d740d4fbf709504d609bbf56bf829dbe7c318ebda9a79a65a7e"
            )
        },
    ),
    Collection(
        paper="Porian et al. 2024 (2406.19146)",
        repository="formll/resolving-scaling-law-discrepancies",
        commit="0dc60d91b8a525858a3067fc9e4a46ff5374cc6f",
        licence="MIT",
        files={  # in the order of the tables' rows
            "data/summary_df.pickle.xz": (
                "afbf07ec92d23182f56a44dd43599f2a7e9716fd70492fbc0a35f6093272b74f"
            ),
            "data/summary_df_owt2.pickle.xz": (
                "7aed67d1ad9bc1d7b0518e3814cee1129216b423b4538d4b724873dd670cff30"
            ),
            "data/summary_df_att.pickle.xz": (
                "40218b8320817bf3c34f82c57aaa28c53ccb5feb9bb3928ee6fc70868ac22af7"
            ),
            "data/summary_df_kaplan_tuned_hparams.pickle.xz": (
                "09b6b91c9c6fa0e4c2684dcbed82475ee62d6c4fc60db5ca2ce5653b08f0ae55"
            ),
        },
        convert=convert.porian,
        tables={
            "porian2024_isoflop.csv": (
                "68f1000409149da5f002c53211ef24fc4c8613704051d82c716249ceda1327f2"
            ),
            "porian2024_published_fits.csv": (
                "f0b1cf9e00e21a102834ee8ac3348e6d8b5409e6926c6aa69f1dbdc44ff8c152"
            ),
        },
    ),
    Collection(
        paper="Gadre et al. 2024 (2403.08540)",
        repository="mlfoundations/scaling",
        commit="a003c4913793ac2ae7ef87b28ecb562955d026d5",
        licence="MIT",
        files=listed("gadre2024_files.txt"),
        convert=convert.gadre,
        tables={
            "gadre2024_overtraining.csv": (
                "424bae35394b73962ffd42e95c0b0acab1e1f3a585420ad6af3759b161638c4b"
            )
        },
    ),
    Collection(
        paper="Muennighoff et al. 2023 (2305.16264)",
        repository="huggingface/datablations",
        commit="13701315b163f1c54642b94ad237b2699187c3ee",
        licence="Apache-2.0",
        files={
            "utils/parametric_fit.ipynb": (
                "6c65d270e70c944a9ac90f5f1213a4584e1ff9d6d2781cd86900663f4ab17db9"
            )
        },
        convert=convert.muennighoff,
        tables={
            "muennighoff2023_datablations182.csv": (
                "963ff4bce420bb7dd1964c4ddf07372584597faed10bc41d30e3b89aa335cb21"
            )
        },
    ),
)
