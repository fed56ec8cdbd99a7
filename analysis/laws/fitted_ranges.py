"""The runs that published laws were fitted on: smallest and largest N, D and C = 6ND, with sources.

Ranges of released tables are those of the table; others are as the paper prints them. A law whose
paper states no compute (farseer2025) has none, and a plan says that its reach is not known.
"""

from collections.abc import Mapping
from dataclasses import replace

from analysis.laws.law import Law

Ranges = dict[str, tuple[float, float]]

# The 245 runs that Besiroglu et al. 2024 (2404.10102) read off figure 4 of Hoffmann et al. 2022;
# their own refit leaves the five with the fewest tokens out.
_CHINCHILLA: Ranges = {
    "params": (5.733e7, 1.618e10),
    "tokens": (2.451e8, 3.178e11),
    "flops_6nd": (1.397e18, 1.296e22),
}
# Kaplan et al. 2020, 2001.08361, section 3: N without embeddings; 2.5e5 steps of 512 x 1024 tokens.
_KAPLAN: Ranges = {
    "params": (768, 1.5e9),
    "tokens": (2.2e7, 2.3e10),
    "flops_6nd": (6.0e14, 1.2e21),
}
# Released tables of Gadre et al. 2024 (2403.08540) and Porian et al. 2024 (2406.19146).
_GADRE_PARAMS = (1.057e7, 6.889e9)
_PORIAN: Ranges = {
    "params": (5.173e6, 9.017e8),
    "tokens": (1.848e7, 2.863e10),
    "flops_6nd": (1.25e16, 2.56e19),
}
_GADRE: dict[str, Ranges] = {
    corpus: {"params": _GADRE_PARAMS, "tokens": (5.285e7, most_tokens), "flops_6nd": flops}
    for corpus, most_tokens, flops in (
        ("c4", 1.378e11, (3.351e15, 5.696e21)),
        ("rpj", 9.215e11, (3.351e15, 7.960e21)),
        ("rw", 4.607e11, (3.351e15, 5.696e21)),
    )
}
FITTED: Mapping[str, Ranges] = {
    "hoffmann2022": _CHINCHILLA,
    "hoffmann2022_tex": _CHINCHILLA,
    "hoffmann2022_approach1": _CHINCHILLA,
    "hoffmann2022_approach2": {"flops_6nd": (6e18, 3e21)},  # the nine IsoFLOP budgets
    "besiroglu2024": {**_CHINCHILLA, "tokens": (8.187e8, 3.178e11)},
    **{f"kaplan2020{end}": _KAPLAN for end in ("", "_params", "_tokens", "_flops")},
    "muennighoff2023": {
        "params": (7.099e6, 8.67e9),
        "tokens": (1e8, 9e11),
        "flops_6nd": (4.259e15, 9.260e21),
    },
    **{f"gadre2024_{corpus}": ranges for corpus, ranges in _GADRE.items()},
    **{f"gadre2024_{corpus}_error": ranges for corpus, ranges in _GADRE.items()},
    "porian2024_rw": _PORIAN,
    "porian2024_owt2": _PORIAN,
    "porian2024_lr_batch": _PORIAN,
    "deepseek2024": {"flops": (1e17, 3e20)},  # DeepSeek LLM, 2401.02954, section 3.2
    "deepseek2024_lr_batch": {"flops": (1e17, 2e19)},  # section 3.1
    "llama3_2024": {"flops": (6e18, 1e22)},  # Llama team 2024, 2407.21783, section 3.2.1
    # Li et al. 2025 (Step Law), 2503.04715: released table of dense models.
    "steplaw2025": {"params": (6e7, 1.1e9), "tokens": (2e9, 1e11)},
}


def with_fitted_range(name: str, law: Law) -> Law:
    """Return a published law with the ranges of the runs that it was fitted on.

    name: of the law; one without known ranges comes back as it is
    law: the law
    """
    ranges = {key: [float(low), float(high)] for key, (low, high) in FITTED.get(name, {}).items()}
    return replace(law, ranges=ranges)
