"""Power laws in one variable, L = [E +] k x^-exponent: Kaplan et al. 2020 (2001.08361) eq. 1.1-1.3.

`power_params`, `power_tokens`, `power_flops`, and with an irreducible loss E `power_params_offset`
and so on. In a table where another variable limits the loss too, the law is that of the frontier:
see `analysis.estimation.power_laws.frontier_runs`.
"""

from analysis.forms.form import Form, Term

_LETTERS = {"params": "N", "tokens": "D", "flops": "C"}


def _power(variable: str, letter: str, *, offset: bool) -> Form:
    return Form(
        name=f"power_{variable}{'_offset' if offset else ''}",
        formula=f"L = {'E + ' if offset else ''}k {letter}^-exponent",
        source="Kaplan et al. 2020, arXiv 2001.08361 eq. 1.1-1.3",
        parameters=("E", "k", "exponent") if offset else ("k", "exponent"),
        variables=(variable,),
        offset="E" if offset else None,
        terms=(Term(amplitude="k", exponents={"exponent": {variable: -1.0}}),),
    )


POWERS = tuple(_power(v, c, offset=o) for v, c in _LETTERS.items() for o in (False, True))
