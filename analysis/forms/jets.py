"""Exact first and second derivatives of plain numpy code, for many parameter vectors at once.

A `Jet` carries a value and its derivatives by P parameters through numpy's arithmetic (forward
mode, second order): f(jet) applies the chain rule f' g and f'' g g' + f' h. A function written for
arrays, as `p["A"] * x["params"] ** -p["alpha"]`, works on jets unchanged. Written by hand on
purpose: an array framework only for five parameters of one formula would be a large dependency.

Legend: S problems, P parameters, n rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.forms.form import Array

Derivatives = tuple[Array, Array, Array]


class Jet:
    """A value and its derivatives by the k parameters that it depends on.

    value: (S, n or 1)
    gradient: (S, k, n or 1)
    hessian: (S, k, k, n or 1), None where first derivatives are enough
    index: positions (k,) of these parameters; most parts of a formula hold few, so that most
        products are small
    """

    __array_priority__ = 100

    def __init__(
        self, value: Array, gradient: Array, hessian: Array | None, index: tuple[int, ...]
    ) -> None:
        self.value, self.gradient, self.hessian, self.index = value, gradient, hessian, index

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply numpy's functions, as np.exp(jet) or array * jet."""
        if method != "__call__" or options or ufunc not in _UFUNCS:
            raise TypeError(f"numpy.{ufunc.__name__} has no derivative here; add it to {__name__}")
        return _UFUNCS[ufunc](*inputs)

    def __neg__(self) -> "Jet":
        """Return -x."""
        return _scale(self, -1.0)

    def __add__(self, other: Any) -> "Jet":
        """Return x + y."""
        return _add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Jet":
        """Return x - y."""
        return _add(self, -other)

    def __rsub__(self, other: Any) -> "Jet":
        """Return y - x."""
        return _add(-self, other)

    def __mul__(self, other: Any) -> "Jet":
        """Return x y."""
        return _multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Jet":
        """Return x / y."""
        return _multiply(self, _reciprocal(other) if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> "Jet":
        """Return y / x."""
        return _multiply(_reciprocal(self), other)

    def __pow__(self, other: Any) -> "Jet":
        """Return x^y, x > 0 when y is a jet or not a constant."""
        return _power(self, other)

    def __rpow__(self, other: Any) -> "Jet":
        """Return y^x for y > 0."""
        return _power(other, self)


def seeds(theta: Array, *, second: bool = True) -> list[Jet]:
    """Return theta (S, P) as P jets, each depending on itself."""
    one = np.ones((len(theta), 1, 1))
    none = np.zeros((len(theta), 1, 1, 1)) if second else None
    return [Jet(theta[:, i, None], one, none, (i,)) for i in range(theta.shape[1])]


def _chain(jet: Jet, value: Array, first: Array, second: Array) -> Jet:
    """Apply a function with the given value and derivatives at the jet's value."""
    gradient = first[:, None] * jet.gradient
    if jet.hessian is None:
        return Jet(value, gradient, None, jet.index)
    hessian = (second[:, None] * jet.gradient)[:, :, None] * jet.gradient[:, None]
    hessian = hessian + first[:, None, None] * jet.hessian
    return Jet(value, gradient, hessian, jet.index)


def _align(left: Jet, right: Jet) -> tuple[Jet, Jet]:
    """Return both jets with derivatives by the parameters of either."""
    if left.index == right.index:
        return left, right
    index = tuple(sorted({*left.index, *right.index}))
    return _extend(left, index), _extend(right, index)


def _extend(jet: Jet, index: tuple[int, ...]) -> Jet:
    if jet.index == index:
        return jet
    at = np.array([index.index(i) for i in jet.index])
    count, size = len(jet.gradient), len(index)
    gradient = np.zeros((count, size, jet.gradient.shape[2]))
    gradient[:, at] = jet.gradient
    if jet.hessian is None:
        return Jet(jet.value, gradient, None, index)
    hessian = np.zeros((count, size, size, jet.hessian.shape[3]))
    hessian[:, at[:, None], at] = jet.hessian
    return Jet(jet.value, gradient, hessian, index)


def _elementary(derivatives: Callable[[Array], Derivatives]) -> Callable[[Any], Any]:
    def apply(jet: Jet) -> Jet:
        return _chain(jet, *derivatives(jet.value))

    return apply


def _exp(x: Array) -> Derivatives:
    value = np.exp(x)
    return value, value, value


def _log(x: Array) -> Derivatives:
    return np.log(x), 1 / x, -1 / x**2


def _sqrt(x: Array) -> Derivatives:
    root = np.sqrt(x)
    return root, 0.5 / root, -0.25 / (x * root)


def _inverse(x: Array) -> Derivatives:
    return 1 / x, -1 / x**2, 2 / x**3


def _softplus(x: Array) -> Derivatives:
    """Return log(1 + exp(x)) from numpy's logaddexp(0, x)."""
    tanh = np.tanh(x / 2)
    return np.logaddexp(0.0, x), (1 + tanh) / 2, (1 - tanh**2) / 4


_reciprocal = _elementary(_inverse)
_jet_exp, _jet_log, _jet_sqrt = _elementary(_exp), _elementary(_log), _elementary(_sqrt)
_jet_softplus = _elementary(_softplus)


def _scale(jet: Jet, factor: Any) -> Jet:
    """Multiply by a number, rows (n,), or rows a problem (S, n), none with a derivative."""
    factor = np.asarray(factor, dtype=float)
    once = factor[:, None] if factor.ndim == 2 else factor
    twice = factor[:, None, None] if factor.ndim == 2 else factor
    hessian = None if jet.hessian is None else jet.hessian * twice
    return Jet(jet.value * factor, jet.gradient * once, hessian, jet.index)


def _add(left: Any, right: Any) -> Jet:
    if not isinstance(right, Jet):
        return Jet(left.value + right, left.gradient, left.hessian, left.index)
    if not isinstance(left, Jet):
        return _add(right, left)
    left, right = _align(left, right)
    value, gradient = left.value + right.value, left.gradient + right.gradient
    if left.hessian is None or right.hessian is None:
        return Jet(value, gradient, None, left.index)
    return Jet(value, gradient, left.hessian + right.hessian, left.index)


def _multiply(left: Any, right: Any) -> Jet:
    if not isinstance(right, Jet):
        return _scale(left, right)
    if not isinstance(left, Jet):
        return _scale(right, left)
    left, right = _align(left, right)
    value = left.value * right.value
    gradient = left.value[:, None] * right.gradient + right.value[:, None] * left.gradient
    if left.hessian is None or right.hessian is None:
        return Jet(value, gradient, None, left.index)
    across = left.gradient[:, :, None] * right.gradient[:, None]
    across = across + across.swapaxes(1, 2)
    hessian = left.value[:, None, None] * right.hessian + right.value[:, None, None] * left.hessian
    return Jet(value, gradient, hessian + across, left.index)


def _power(base: Any, exponent: Any) -> Jet:
    if not isinstance(exponent, Jet):
        e = np.asarray(exponent, dtype=float)
        x = base.value
        return _chain(base, x**e, e * x ** (e - 1), e * (e - 1) * x ** (e - 2))
    log_base = _jet_log(base) if isinstance(base, Jet) else np.log(base)
    return _jet_exp(_multiply(exponent, log_base))


def _subtract(left: Any, right: Any) -> Jet:
    return _add(left, -right)


def _divide(left: Any, right: Any) -> Jet:
    return left / right if isinstance(left, Jet) else right.__rtruediv__(left)


def _logaddexp(left: Any, right: Any) -> Jet:
    """Return log(exp(x) + exp(y)) = x + log(1 + exp(y - x))."""
    return _add(_jet_softplus(_subtract(right, left)), left)


def _minimum(left: Any, right: Any) -> Jet:
    """Return the smaller of both with its derivatives; those of the left one at a tie."""
    if not isinstance(left, Jet):
        left, right = right, left
    other = right.value if isinstance(right, Jet) else right
    is_left = (left.value <= other).astype(float)
    return _add(_scale(left, is_left), right * (1.0 - is_left))


_UFUNCS: dict[Any, Callable[..., Jet]] = {
    np.exp: _jet_exp,
    np.log: _jet_log,
    np.sqrt: _jet_sqrt,
    np.negative: lambda x: -x,
    np.add: _add,
    np.subtract: _subtract,
    np.multiply: _multiply,
    np.divide: _divide,
    np.power: _power,
    np.logaddexp: _logaddexp,
    np.minimum: _minimum,
    np.maximum: lambda x, y: -_minimum(-x, -y),
}
