"""How close a set of embeddings is to an isotropic Gaussian N(0, I). numpy only.

N samples, D dimensions, M slices (unit directions), T knots (quadrature points), J Hermite degrees.
The statistic is the sliced Epps-Pulley distance that SIGReg minimises (arXiv:2511.08544, section 4);
its null distribution is computed, not simulated: see `null_moments`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError

Array = npt.NDArray[np.float64]

KNOTS = 17
T_MAX = 3.0
HERMITE_DEGREES = 24  # the series has converged to 1e-9 by then on |t| <= 3
SLICES = 256


@dataclass(frozen=True, kw_only=True)
class IsotropyReport:
    """What section 5 of the design measures of one output. All figures are unitless."""

    samples: int
    dimensions: int
    statistic: float  # mean over slices; `floor` at N(0, I), 0.402 * samples at full collapse
    floor: float  # the statistic's expectation at N(0, I)
    z_score: float  # (statistic - floor) / its standard deviation at N(0, I)
    p_value: float  # chance of a statistic this large at N(0, I)
    worst_slice: float  # largest statistic over the slices
    mean_norm: float  # norm of the mean; 0 at the target
    variance: float  # mean variance per dimension; 1 at the target
    effective_rank: float  # exp(entropy of the covariance spectrum), 1..dimensions
    rankme: float  # exp(entropy of the singular values of the uncentred matrix), arXiv:2210.02885
    condition_number: float  # largest / smallest covariance eigenvalue; inf when singular
    dead_dimensions: int  # coordinates whose variance is below 1e-6 of the mean variance
    silent_directions: (
        int  # covariance eigenvalues below 1e-6 of their mean; needs N > D to mean much
    )
    uniformity: (
        float  # log E exp(-2 |u - v|^2) of unit-length pairs, arXiv:2005.10242; low is spread
    )
    norm_tail: (
        float  # share of samples beyond the 99 % point of the chi-square law; 0.01 at the target
    )
    norm_distance: float  # Kolmogorov distance of the squared norms from chi-square with D degrees
    spectrum: tuple[float, ...]  # covariance eigenvalues, largest first, at most 256 of them

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["spectrum"] = list(self.spectrum)
        if not math.isfinite(self.condition_number):
            value["condition_number"] = None
        return value


def report(x_ND: npt.ArrayLike, *, slices: int = SLICES, seed: int = 0) -> IsotropyReport:
    """Measure embeddings [N, D] against N(0, I). Raises DataError below 8 samples or at NaN."""
    x = np.asarray(x_ND, dtype=np.float64)
    if x.ndim != 2 or len(x) < 8:
        raise DataError(f"isotropy needs embeddings [N, D] with N >= 8, found shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise DataError(f"{bad} of {len(x)} embeddings hold NaN or infinity")
    directions = random_directions(x.shape[1], slices, seed)
    per_slice = sliced_statistic(x, directions)
    statistic = float(per_slice.mean())
    floor, deviation, skew = moments_of(x.shape[1], slices, seed)
    mean = x.mean(axis=0)
    spectrum = np.clip(np.linalg.eigvalsh(np.cov(x, rowvar=False).reshape(x.shape[1], -1)), 0, None)
    spectrum = spectrum[::-1]
    variances = x.var(axis=0)
    smallest = float(spectrum[-1])
    norms = norm_p_values(x)
    return IsotropyReport(
        samples=len(x),
        dimensions=x.shape[1],
        statistic=statistic,
        floor=floor,
        z_score=(statistic - floor) / deviation,
        p_value=gamma_tail((statistic - floor) / deviation, skew),
        worst_slice=float(per_slice.max()),
        mean_norm=float(np.linalg.norm(mean)),
        variance=float(variances.mean()),
        effective_rank=entropy_rank(spectrum),
        rankme=entropy_rank(np.linalg.svd(x, compute_uv=False)),
        condition_number=float(spectrum[0]) / smallest if smallest > 0 else math.inf,
        dead_dimensions=int((variances <= 1e-6 * max(variances.mean(), 1e-300)).sum()),
        silent_directions=int((spectrum <= 1e-6 * max(spectrum.mean(), 1e-300)).sum()),
        uniformity=uniformity(x),
        norm_tail=float((norms <= 0.01).mean()),
        norm_distance=kolmogorov(norms),
        spectrum=tuple(float(value) for value in spectrum[:256]),
    )


def random_directions(dimensions: int, slices: int, seed: int) -> Array:
    """[D, M] unit columns, uniform on the sphere."""
    directions = np.random.default_rng(seed).standard_normal((dimensions, slices))
    return directions / np.linalg.norm(directions, axis=0)


def quadrature() -> tuple[Array, Array, Array]:
    """Knots t, characteristic function phi of N(0, 1) at t, weights (trapezoid of [-3, 3], times phi)."""
    t = np.linspace(0, T_MAX, KNOTS)
    weights = np.full(KNOTS, 2 * t[1])
    weights[[0, -1]] = t[1]
    phi = np.exp(-(t**2) / 2)
    return t, phi, weights * phi


def sliced_statistic(x_ND: Array, directions_DM: Array) -> Array:
    """The Epps-Pulley statistic of each slice, [M]. Mean 1.05 per slice at N(0, I)."""
    t, phi, weights = quadrature()
    samples = len(x_ND)
    result = np.zeros(directions_DM.shape[1])
    columns = max(1, 2_000_000 // max(samples, 1))  # bounds the working set to some 50 MB
    for start in range(0, directions_DM.shape[1], columns):
        step = np.exp(1j * t[1] * (x_ND @ directions_DM[:, start : start + columns]))
        power = np.ones_like(step)
        for knot in range(KNOTS):  # exp(i t x) by repeated multiplication: one exp per sample
            if knot:
                power *= step
            distance = power.mean(axis=0) - phi[knot]
            result[start : start + columns] += weights[knot] * np.abs(distance) ** 2
    return samples * result


@lru_cache(maxsize=32)  # a run asks for those of the same few widths at every evaluation
def moments_of(dimensions: int, slices: int, seed: int) -> tuple[float, float, float]:
    return null_moments(random_directions(dimensions, slices, seed))


def null_moments(directions_DM: Array) -> tuple[float, float, float]:
    """Mean, standard deviation, skewness at N(0, I) of the statistic averaged over these slices.

    With He_j the normalised Hermite polynomials, cos(t x) and sin(t x) expand with coefficients
    +-t^j phi(t) / sqrt(j!) on even and odd j. The coefficients' sample means are asymptotically
    independent N(0, 1 / N), and for two slices at cosine r their covariance is r^j. So the average is
    a quadratic form of a Gaussian vector and its cumulants are traces. Independent of N.
    """
    gram = hermite_gram()
    cosines = directions_DM.T @ directions_DM
    slices = cosines.shape[0]
    powers = [cosines]
    for _ in range(len(gram) - 1):
        powers.append(powers[-1] * cosines)
    mean = float(np.trace(gram))
    variance = 0.0
    third = 0.0
    degrees = range(len(gram))
    for j in degrees:
        for k in degrees:
            if gram[j, k] ** 2 < 1e-14:
                continue
            variance += 2 * gram[j, k] ** 2 * float((powers[j] * powers[k]).sum())
            product = powers[j] @ powers[k]
            for m in degrees:
                weight = gram[j, k] * gram[k, m] * gram[m, j]
                if abs(weight) > 1e-8:
                    third += 8 * weight * float((product * powers[m]).sum())
    variance /= slices**2
    third /= slices**3
    return mean, math.sqrt(variance), third / variance**1.5


def hermite_gram() -> Array:
    """[J, J]: weight of the product of Hermite coefficients j and k (degrees 1..J) in the statistic."""
    t, phi, weights = quadrature()
    degree = np.arange(1, HERMITE_DEGREES + 1)
    log_factorial = np.cumsum(np.log(degree))
    with np.errstate(divide="ignore"):
        size = np.exp(degree[:, None] * np.log(t)[None] - log_factorial[:, None] / 2) * phi
    # Even degrees belong to cos with sign (-1)^(j/2), odd ones to sin with (-1)^((j-1)/2).
    coefficients = size * np.where((degree // 2) % 2 == 0, 1.0, -1.0)[:, None]
    gram = (coefficients * weights) @ coefficients.T
    same_parity = (degree[:, None] + degree[None]) % 2 == 0
    return np.where(same_parity, gram, 0.0)


def gamma_tail(z: float, skew: float) -> float:
    """P(Z > z) of the gamma law with mean 0, variance 1 and this skewness (Wilson-Hilferty)."""
    if skew < 1e-3:
        return 0.5 * math.erfc(z / math.sqrt(2))
    shape = 4 / skew**2
    ratio = 1 + z / math.sqrt(shape)  # the variable over its mean
    if ratio <= 0:
        return 1.0
    normal = (ratio ** (1 / 3) - (1 - 1 / (9 * shape))) * math.sqrt(9 * shape)
    return 0.5 * math.erfc(normal / math.sqrt(2))


def entropy_rank(values: npt.ArrayLike) -> float:
    """exp(Shannon entropy) of non-negative values normalised to sum 1; 0 when all are 0."""
    values = np.asarray(values, dtype=np.float64)
    total = values.sum()
    if total <= 0:
        return 0.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def norm_p_values(x_ND: Array) -> Array:
    """[N]: the chance at N(0, I) of a squared norm at least as large, by the chi-square law.

    Wilson-Hilferty's approximation, within 0.002 of the exact law from 4 dimensions on.
    """
    dimensions = x_ND.shape[1]
    skew = math.sqrt(8 / dimensions)
    scores = ((x_ND**2).sum(axis=1) - dimensions) / math.sqrt(2 * dimensions)
    return np.array([gamma_tail(float(score), skew) for score in scores])


def kolmogorov(p_values: Array) -> float:
    """Largest distance between the distribution of p-values and the uniform one."""
    ordered = np.sort(p_values)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def uniformity(x_ND: Array, *, most: int = 2048) -> float:
    """Wang and Isola's uniformity over all pairs of the first `most` samples."""
    x = x_ND[:most]
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return float(np.log(np.exp(-4 * (1 - cosines)).mean()))


@dataclass(frozen=True)
class Calibration:
    """The affine map x -> (x - mean) @ matrix that brings projections to mean 0, covariance I."""

    mean: Array  # [D]
    matrix: Array  # [D, D], symmetric

    def apply(self, x_ND: npt.ArrayLike) -> Array:
        return (np.asarray(x_ND, dtype=np.float64) - self.mean) @ self.matrix


def fit_calibration(x_ND: npt.ArrayLike, *, floor: float = 1e-3) -> Calibration:
    """Whitening fitted on training images' raw projections [N, D].

    From N >= 2 D the sample covariance is used as it is, scaled by (N - D - 1) / N: whitening is affine
    equivariant and the inverse of a Wishart matrix is too large by that factor. (Shrinking towards the
    identity instead swamps the small eigenvalues: on 64-d projections of solar cells, held-out T is 6.2
    with it and 2.1 without at N = 512.) Below that it is shrunk by 0.1 D / (N + D). Directions
    with less than `floor` of the mean variance are not inflated: whitening a collapsed output would
    amplify noise and hide the collapse.
    """
    x = np.asarray(x_ND, dtype=np.float64)
    samples, dimensions = x.shape
    if samples < 2 or not np.isfinite(x).all():
        raise DataError(f"calibration needs 2 or more finite projections, found shape {x.shape}")
    covariance = np.cov(x, rowvar=False).reshape(dimensions, dimensions)
    typical = float(np.trace(covariance)) / dimensions
    shrink, gain = 0.0, math.sqrt(max(samples - dimensions - 1, 1) / samples)
    if samples < 2 * dimensions:
        shrink, gain = 0.1 * dimensions / (samples + dimensions), 1.0
    covariance = (1 - shrink) * covariance + shrink * typical * np.eye(dimensions)
    values, vectors = np.linalg.eigh(covariance)
    scale = gain / np.sqrt(np.maximum(values, max(floor * typical, 1e-12)))
    # Rounded to what the bundle stores, so that a reloaded bundle gives the very same projections.
    mean, matrix = x.mean(axis=0), (vectors * scale) @ vectors.T
    return Calibration(*(value.astype(np.float32).astype(np.float64) for value in (mean, matrix)))
