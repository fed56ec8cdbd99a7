"""The operations between the matrix products of `scaling.cpu.passes`, one compiled kernel each.

A kernel reads its arrays once; torch reads them once for every operation. Loops are written as
LLVM's vectoriser needs them: over the last axis of two-dimensional arrays, with sums and maxima
that may be reordered. Time every change. NaN and infinity are not optimised away: a loss that is
not finite must be seen.

Legend: n tokens, B rows, T context, C and O widths, H heads, K head width, F hidden width,
V vocabulary; `x` is the residual stream, a leading d means the loss' gradient.
"""

import numpy as np

from scaling.cpu.jit import f32, get, i32, inline, kernel, put

LOG2E, LN2 = f32(1.4426950408889634), f32(0.6931471805599453)
LEAST = i32(-(2**31))  # The smallest integer: where a maximum of `ordered` floats begins.
TILE = 32  # Keys that a loop takes at once.


@inline
def exp2(x):
    """Return 2^x to a relative error of 2e-7, with x limited to [-126, 127]; NaN of NaN."""
    x = f32(-126) if x < f32(-126) else x
    x = f32(127) if x > f32(127) else x
    n = np.floor(x + f32(0.5))
    r = x - n  # (-1/2, 1/2)
    p = f32(1.5353362e-4)
    p = p * r + f32(1.3398874e-3)
    p = p * r + f32(9.6184373e-3)
    p = p * r + f32(5.5503324e-2)
    p = p * r + f32(2.4022648e-1)
    p = p * r + f32(6.9314720e-1)
    p = p * r + f32(1)
    return p * i32(i32(i32(n) + i32(127)) << i32(23)).view(f32)


@inline
def ordered(x):
    """Map a float to an integer of the same order: LLVM vectorises maxima of integers."""
    bits = f32(x).view(i32)
    return i32(bits ^ i32(i32(bits >> i32(31)) & i32(0x7FFFFFFF)))


@inline
def float_of(bits):
    """Return the float that `ordered` mapped to these bits."""
    return i32(bits ^ i32(i32(bits >> i32(31)) & i32(0x7FFFFFFF))).view(f32)


@inline
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + exp2(-LOG2E * x))


@kernel
def fold(weight, gain, scale, matrix):
    """Write weight (O, C) times gain (C,) and scale."""
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            put(matrix, (i, j), weight[i, j] * gain[j] * scale)


@kernel
def unfold(d_matrix, weight, gain, scale, d_weight, d_gain):
    """Add the gradient behind `fold` to the gradients of weight and gain."""
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            d = get(d_matrix, (i, j)) * scale
            d_weight[i, j] += d * gain[j]
            d_gain[j] += d * weight[i, j]


@kernel
def norm(x, branch, eps, normed, rate):
    """Add a branch (n, C) to x; write x over its root mean square, and the rate 1 / rms, (n,)."""
    n, width = x.shape
    for i in range(n):
        total = f32(0)
        for j in range(width):
            x[i, j] += get(branch, (i, j))
            total += x[i, j] * x[i, j]
        r = f32(1) / np.sqrt(total / f32(width) + eps)
        rate[i] = r
        for j in range(width):
            put(normed, (i, j), x[i, j] * r)


@kernel
def norm_back(d_normed, normed, rate, dx, low):
    """Add r (d - y mean(y d)) to dx for y = r x; write dx in the dtype of products too."""
    n, width = dx.shape
    for i in range(n):
        along = f32(0)
        for j in range(width):
            along += get(d_normed, (i, j)) * get(normed, (i, j))
        along /= f32(width)
        r = rate[i]
        for j in range(width):
            d = dx[i, j] + r * (get(d_normed, (i, j)) - get(normed, (i, j)) * along)
            dx[i, j] = d
            put(low, (i, j), d)


@kernel
def swiglu(product, act):
    """Write silu(gate) times linear of (n, 2 F or more) gates and linear parts, (n, F)."""
    n, width = act.shape
    for i in range(n):
        for j in range(width):
            gate = get(product, (i, j))
            put(act, (i, j), gate * sigmoid(gate) * get(product, (i, width + j)))


@kernel
def swiglu_back(product, d_act, d_product):
    """Write the gradient of gates and linear parts."""
    n, width = d_act.shape
    for i in range(n):
        for j in range(width):
            gate, d = get(product, (i, j)), get(d_act, (i, j))
            share = sigmoid(gate)
            linear = get(product, (i, width + j))
            put(d_product, (i, j), d * linear * share * (f32(1) + gate * (f32(1) - share)))
            put(d_product, (i, width + j), d * gate * share)


@kernel
def by_head(packed, cos, sin, lanes, heads, low):
    """Rotate the P parts (queries, keys, values) of n tokens by their angles, and order by head.

    (n, P H K) becomes (P, B, H, T, K), in `low` too where it is not None. The angles, (P, T, K/2),
    hold each part's scale. `lanes` is any tuple of length K/2: a tuple's length is known when the
    loop over it is compiled.
    """
    parts, rows, n_head, context, _ = heads.shape
    half = len(lanes)
    for b in range(rows):
        for p in range(parts):
            for t in range(context):
                i = b * context + t
                for h in range(n_head):
                    first = 2 * half * (p * n_head + h)
                    second = first + half
                    for j in range(half):
                        u, v = get(packed, (i, first + j)), get(packed, (i, second + j))
                        c, s = cos[p, t, j], sin[p, t, j]
                        put(heads, (p, b, h, t, j), u * c - v * s)
                        put(heads, (p, b, h, t, half + j), v * c + u * s)
                        if low is not None:
                            put(low, (p, b, h, t, j), u * c - v * s)
                            put(low, (p, b, h, t, half + j), v * c + u * s)


@kernel
def by_token(heads, cos, sin, lanes, packed):
    """Rotate heads back and order by token: for gradients, and for values, whose angles are 0."""
    parts, rows, n_head, context, _ = heads.shape
    half = len(lanes)
    for b in range(rows):
        for p in range(parts):
            for t in range(context):
                i = b * context + t
                for h in range(n_head):
                    first = 2 * half * (p * n_head + h)
                    second = first + half
                    for j in range(half):
                        u, v = get(heads, (p, b, h, t, j)), get(heads, (p, b, h, t, half + j))
                        c, s = cos[p, t, j], sin[p, t, j]
                        put(packed, (i, first + j), u * c + v * s)
                        put(packed, (i, second + j), v * c - u * s)


@inline
def reach(i, context):
    """Return how many keys of row i of causal (B H T, T) scores a loop takes: whole tiles."""
    return min(context, i % context // TILE * TILE + TILE)


@kernel
def softmax(scores, hidden, weights):
    """Write the softmax of causal (B H T, T) scores to weights that are 0 at the keys to come.

    `hidden` (T, T) is 0 where a query may look and -inf at the keys to come.
    """
    n, context = scores.shape
    row = np.empty(context, f32)
    for i in range(n):
        t, width = i % context, reach(i, context)
        top = LEAST
        for j in range(width):
            top = max(top, ordered(scores[i, j] + hidden[t, j]))
        most = float_of(top) * LOG2E
        total = f32(0)
        for j in range(width):
            e = exp2((scores[i, j] + hidden[t, j]) * LOG2E - most)
            row[j] = e
            total += e
        share = f32(1) / total
        for j in range(t + 1):
            put(weights, (i, j), row[j] * share)


@kernel
def softmax_back(d_weights, weights, d_scores):
    """Write the scores' gradient; at the keys to come it is 0 and is not written.

    Rounded weights are divided by their sum.
    """
    n, context = weights.shape
    for i in range(n):
        width = reach(i, context)
        along = total = f32(0)
        for j in range(width):
            along += get(weights, (i, j)) * d_weights[i, j]
            total += get(weights, (i, j))
        along /= total
        for j in range(width):
            put(d_scores, (i, j), get(weights, (i, j)) * (d_weights[i, j] - along))


@kernel
def cross_entropy(logits, targets, row, share):
    """Return the summed -log softmax(logits)[target] in nats; logits become `share` x gradient.

    Logits are (n, V or more), targets (n,); `row` (V,) is a buffer for one row.
    """
    n, vocabulary = len(logits), len(row)
    loss, share = 0.0, f32(share)
    for i in range(n):
        top = LEAST
        for j in range(vocabulary):
            top = max(top, ordered(get(logits, (i, j))))
        most = float_of(top) * LOG2E
        total = f32(0)
        for j in range(vocabulary):
            e = exp2(get(logits, (i, j)) * LOG2E - most)
            row[j] = e
            total += e
        target = targets[i]
        if target < 0 or target >= vocabulary:
            raise IndexError("a target lies outside the vocabulary; retokenise the data")
        picked = get(logits, (i, target)) * LOG2E - most
        loss += np.float64(LN2) * (np.log2(np.float64(total)) - np.float64(picked))
        factor = share / total
        for j in range(vocabulary):
            put(logits, (i, j), row[j] * factor)
        put(logits, (i, target), row[target] * factor - share)
    return loss


@kernel
def add_rows(values, places, table):
    """Add row i of values to row places[i] of the table."""
    for i in range(len(places)):
        at = places[i]
        for j in range(values.shape[1]):
            table[at, j] += values[i, j]
