from __future__ import annotations

import numpy as np
import pytest

from tersor.quantizers import base
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.integer import quantize_integer
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {"a": rng.laplace(0, 0.05, (40, 50)), "b": rng.normal(0, 0.2, (8, 4, 3, 3))}
    return {n: np.where(np.abs(w) > 0.03, w, 0.0).astype(np.float32) for n, w in made.items()}


@pytest.fixture
def importance(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {n: rng.gamma(0.5, 1.0, w.shape).astype(np.float32) for n, w in weights.items()}


def loss(weights, shared, importance=None) -> float:
    return sum(
        float(((shared[n].dense() - w) ** 2 * (1 if importance is None else importance[n])).sum())
        for n, w in weights.items()
    )


METHODS = {
    "kmeans": lambda w, **k: quantize_kmeans(w, 15, **k),
    "lloyd": lambda w, **k: quantize_kmeans(w, 15, algorithm="lloyd", **k),
    "uniform": lambda w, **k: quantize_uniform(w, 16, **k),
    "integer": lambda w, **k: quantize_integer(w, 16, **k),
    "ecsq": lambda w, **k: quantize_ecsq(w, 16, penalty=1e-5, **k),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("joint", [False, True])
def test_codebooks_ascend_and_every_entry_is_in_use(weights, importance, method, joint):
    shared = METHODS[method](weights, importance=importance, joint=joint)
    for name, weight in weights.items():
        got = shared[name]
        assert got.codes.shape == weight.shape
        assert not got.codes[weight == 0].any()
        assert (np.diff(got.values) > 0).all()
        assert set(np.unique(got.codes)) - {0} == set(range(1, len(got.values) + 1))
        error = importance[name] * (got.dense() - weight) ** 2
        assert error.sum() < 0.05 * (importance[name] * weight**2).sum()


@pytest.mark.parametrize("method", ["kmeans", "lloyd", "uniform", "integer", "ecsq"])
def test_a_joint_codebook_serves_all_layers(weights, method):
    shared = METHODS[method](weights, joint=True)
    union = np.unique(np.concatenate([s.values for s in shared.values()]))
    assert len(union) <= 16
    apart = METHODS[method](weights)
    assert not set(apart["a"].values) & set(apart["b"].values)


def test_importance_lowers_the_weighted_error(weights, importance):
    plain = quantize_kmeans(weights, 7)
    weighted = quantize_kmeans(weights, 7, importance=importance)
    assert loss(weights, weighted, importance) < loss(weights, plain, importance)
    assert loss(weights, plain) < loss(weights, weighted)


@pytest.mark.parametrize("weighted", [False, True])
def test_uniform_values_are_the_means_of_even_bins(weights, importance, weighted):
    shared = quantize_uniform(weights, step=0.02, importance=importance if weighted else None)
    for name, weight in weights.items():
        codes = shared[name].codes
        for code, value in enumerate(shared[name].values, 1):
            members = weight[codes == code]
            assert len(np.unique(np.rint(members / np.float32(0.02)))) == 1
            h = importance[name][codes == code] if weighted else None
            assert value == pytest.approx(np.average(members, weights=h), rel=1e-5)


@pytest.mark.parametrize("values", [2, 3, 15, 16, 63, 127])
def test_integers_are_multiples_of_one_step(weights, values):
    shared = quantize_integer(weights, values)
    for name, weight in weights.items():
        got = shared[name]
        assert 2 <= len(got.values) <= values
        gaps = np.diff(np.concatenate([got.values, [0.0]]).astype(np.float64))
        step = np.abs(gaps[np.abs(gaps) > 1e-9]).min()
        multiples = np.rint(got.values / step)
        step = float(got.values @ multiples / (multiples @ multiples))
        assert np.abs(got.values - multiples * step).max() <= 2.0**-22 * np.abs(got.values).max()
        assert np.abs(got.dense() - weight)[weight != 0].max() <= 0.501 * step


def test_integers_beyond_127_keep_their_weights():
    weight = np.random.default_rng(1).normal(size=(50, 50)).astype(np.float32)
    weight[3, 4] = 170.0
    got = quantize_integer({"w": weight}, 127)["w"].dense()
    assert np.linalg.norm(got - weight) < 0.04 * np.linalg.norm(weight[weight < 100])


@pytest.mark.parametrize("values", [0, 1, 256])
def test_integers_need_two_multiples_at_least(weights, values):
    with pytest.raises(ValueError, match="codebook_size must be 2 to 255"):
        quantize_integer(weights, values)


@pytest.mark.parametrize("values", [1, 2, 3, 15, 16, 255])
def test_uniform_respects_the_codebook_size(weights, values):
    assert all(len(s.values) <= values for s in quantize_uniform(weights, values).values())


def test_uniform_prunes_the_bin_of_zero():
    got = quantize_uniform({"w": np.array([0.04, 0.06, -0.2], np.float32)}, step=0.1)["w"]
    assert got.codes.tolist() == [0, 2, 1]
    assert got.values == pytest.approx([-0.2, 0.06])


def test_a_higher_penalty_trades_error_for_bits(weights):
    errors, bits = [], []
    for penalty in (0.0, 1e-5, 1e-4, 1e-3, 1.0):
        shared = quantize_ecsq(weights, 31, penalty=penalty)
        errors.append(loss({"a": weights["a"]}, shared))
        bits.append(shared["a"].entropy())
    assert errors == sorted(errors)
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] == 0.0


def test_ecsq_has_less_error_than_kmeans_at_the_same_entropy(weights):
    plain = quantize_kmeans({"a": weights["a"]}, 7)
    limited = quantize_ecsq({"a": weights["a"]}, 63, bits=plain["a"].entropy())
    assert limited["a"].entropy() <= plain["a"].entropy()
    assert loss({"a": weights["a"]}, limited) < loss({"a": weights["a"]}, plain)


@pytest.mark.parametrize("bits", [0.5, 1.5, 2.5, 3.5])
def test_the_target_entropy_is_reached_from_below(weights, bits):
    got = quantize_ecsq(weights, 63, bits=bits)
    for sharing in got.values():
        assert sharing.entropy() <= bits
        assert sharing.entropy() >= 0.97 * bits


@pytest.mark.parametrize("method", METHODS)
def test_empty_and_constant_layers(method):
    constant = np.full((3, 4), 0.5, np.float32)
    got = METHODS[method]({"zero": np.zeros((2, 3), np.float32), "one": constant})
    assert len(got["zero"].values) == 0
    assert not got["zero"].codes.any()
    assert got["one"].dense() == pytest.approx(constant)


def test_invalid_arguments_are_rejected(weights):
    with pytest.raises(ValueError, match="either codebook_size or step"):
        quantize_uniform(weights)
    with pytest.raises(ValueError, match="either penalty or bits"):
        quantize_ecsq(weights, 3, penalty=0.1, bits=2.0)
    with pytest.raises(ValueError, match="makes .* values, more than 255"):
        quantize_uniform(weights, step=1e-6)
    with pytest.raises(ValueError, match="b: no importance"):
        quantize_kmeans(weights, 3, importance={"a": np.ones((40, 50), np.float32)})
    with pytest.raises(ValueError, match="a: importance has shape"):
        quantize_kmeans(weights, 3, importance={n: np.ones(3, np.float32) for n in weights})
    with pytest.raises(ValueError, match="a: the weight holds NaN"):
        quantize_kmeans({"a": np.array([np.nan], np.float32)}, 3)
    assert base.MAX_CODEBOOK_SIZE == 255


def test_a_few_distant_weights_take_no_bins_from_the_others() -> None:
    generator = np.random.default_rng(1)
    plain = generator.normal(size=(200, 200)).astype(np.float32)
    outlier = plain.copy()
    outlier[3, 5] = 170.0
    errors = []
    for weight in (plain, outlier):
        made = quantize_uniform({"w": weight}, 127)["w"]
        assert len(made.values) <= 127
        others = np.abs(weight) < 100
        off = (made.dense() - weight)[others]
        errors.append(float(np.linalg.norm(off) / np.linalg.norm(weight[others])))
    assert errors[0] < 0.03
    assert errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize("distinct", [1, 2, 5, 7])
def test_few_distinct_values_are_kept(distinct: int) -> None:
    values = np.array([-3.0, -0.001, 0.002, 0.5, 1.0, 7.0, 900.0], np.float32)[:distinct]
    weight = np.random.default_rng(1).choice(values, (20, 20)).astype(np.float32)
    made = quantize_uniform({"w": weight}, max(2, distinct))["w"]
    assert np.abs(made.dense() - weight).max() <= 1e-3 * np.abs(weight).max()
