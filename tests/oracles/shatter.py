"""The nets of the shattered gradients paper once more: numpy in float64, own draws, gradients by hand in reverse.

Written from the definitions (`docs/shatter.md`) and sharing no code with gradlab, so that a wrong variance, a norm in
the wrong place or a wrong divisor shows.
"""

import numpy as np

EPS = 1e-5


class Net:
    """One random net on a line of inputs.

    Attributes:
        gradient: df(x_i)/dx_i, statistics of normalization held fixed, (M,).
        coactivation: Mean over layers and neurons of the share of pairs of inputs with both active.
        moments: Gradient second moments at the pair, (i, i), (j, j), (i, j), with backward weights averaged.
    """

    def __init__(self, kind, norm, beta, depth, width, x, pair, rng):
        self.kind, self.norm, self.beta, self.x, self.pair = kind, norm, beta, x, list(pair)
        gain = 1 if kind == "resnet" else np.sqrt(2)
        stem, bias = rng.normal(0, gain, width), rng.normal(0, gain, width)
        readout = rng.normal(0, np.sqrt(1 / width), width)
        z = np.outer(stem, x) + bias[:, None]
        layers, shares, self.moments = [], [], np.ones(3)
        for layer in range(1, depth + 1):
            plain = kind == "ff" and layer in (1, depth)
            y, slopes, variance = self.normalized(z, "none" if plain else norm)
            on = y > 0
            shares.append(self.pairs(on) + (self.pairs(y < 0) if kind == "ll" else 0))
            self.moments *= self.factors(on, variance)
            if kind == "resnet" or layer < depth:
                weight = self.weight(width, rng)
                out = weight @ (y if kind == "ll" else np.where(on, y, 0))
                z = z + beta * out if kind == "resnet" else out
            else:
                weight = None
            layers.append((weight, slopes, np.ones_like(y) if kind == "ll" else on))
        self.gradient = stem @ self.backward(layers, readout)
        self.coactivation = np.mean(shares) / (2 if kind == "ll" else 1)

    def normalized(self, z, norm):
        """Normalized values, the slope of each neuron, and what is divided by, squared."""
        none = np.ones((len(z), 1))
        if norm == "none":
            return z, none, none
        z = z - z.mean(1, keepdims=True)
        if norm == "center":
            return z, none, none
        variance = z.var(1, keepdims=True) + EPS
        return z / np.sqrt(variance), 1 / np.sqrt(variance), variance

    def weight(self, width, rng):
        if self.kind != "ll":
            return rng.normal(0, np.sqrt(2 / width), (width, width))
        q, r = np.linalg.qr(rng.normal(size=(width, width)))
        return q * np.sign(np.diag(r))

    def backward(self, layers, readout):
        residual = self.kind == "resnet"
        g = np.repeat(readout[:, None], len(self.x), 1)
        for weight, slopes, on in reversed(layers):
            back = slopes * on * (g if weight is None else weight.T @ g)
            g = g + self.beta * back if residual else back
        return g

    def pairs(self, on):
        """Share of the pairs of distinct inputs at which a neuron is active at both, neuron by neuron."""
        both = on.astype(float).T @ on
        return (both.sum() - np.trace(both)) / len(on) / (len(self.x) * (len(self.x) - 1))

    def factors(self, on, variance):
        """What the layer multiplies the moments by."""
        i, j = on[:, self.pair].astype(float).T
        if self.kind == "ll":
            i = j = np.ones_like(i) / np.sqrt(2)
        factors = 2 * np.array([(i * i).mean(), (j * j).mean(), (i * j).mean()]) / variance.mean()
        return 1 + self.beta**2 * factors if self.kind == "resnet" else factors


def autocorrelation(signal, lags):
    """One signal's, (lags + 1,), the biased estimator; 1 for a constant one."""
    rest = signal - signal.mean()
    if np.abs(rest).max() <= 1e-7 * np.abs(signal).max():
        return np.ones(lags + 1)
    return np.array([(rest[: len(rest) - k] * rest[k:]).sum() for k in range(lags + 1)]) / (rest**2).sum()


def correlation(moments):
    """Of the gradients at the pair, from the moments of many nets, (S, 3)."""
    first, second, both = np.mean(moments, 0)
    return both / np.sqrt(first * second)
