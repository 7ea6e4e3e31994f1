"""Measures of geometry against plain references, cases by hand, and the traps that published code falls into."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from core.errors import DataError
from core.geometry import classes, drift, neighbours, spread
from core.model.looking.redundancy import debiased_cka


def gaussian(rows, width, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width))


def on_a_sheet(rows, dimension, width, seed=0):
    """Rows of a flat sheet of that dimension, turned into a wider space."""
    turn = np.linalg.qr(gaussian(width, width, 99))[0][:dimension]
    return np.random.default_rng(seed).random((rows, dimension)) @ turn


def labelled(rows, width, count, apart, seed=0):
    labels = np.arange(rows) % count
    return gaussian(rows, width, seed) + apart * gaussian(count, width, 7)[labels], labels


# neighbours


def test_distances_are_those_of_scikit_learn_even_far_from_the_origin():
    vectors = gaussian(300, 20) + 1e5
    far, near = NearestNeighbors(n_neighbors=8).fit(vectors - vectors.mean(0)).kneighbors()
    index, distance = neighbours.by_distance(vectors, 8)
    assert np.array_equal(index, near) and np.allclose(distance, far, rtol=1e-9)


def test_hubness_by_hand():
    # each of 4 rows names one neighbour: 1, 0, 0, 0 -> named 3, 1, 0, 0 times; mean 1, deviations 2, 0, -1, -1: third moment 6/4, variance 6/4
    assert neighbours.hubness(np.array([[1], [0], [0], [0]])) == pytest.approx(1.5 / 1.5**1.5)
    assert neighbours.hubness(np.array([[1], [2], [3], [0]])) == 0.0


def test_hubs_grow_with_the_dimension_so_a_level_of_chance_is_needed():
    few, many = (neighbours.hubness(neighbours.by_distance(gaussian(800, width), 10)[0]) for width in (3, 200))
    assert few < 0.7 < 2 < many


def test_unrelated_spaces_share_neighbours_by_chance_and_a_turned_one_shares_all():
    one, other = gaussian(500, 30), gaussian(500, 30, 1)
    near = neighbours.neighbours(one, 10)
    shared = neighbours.kept(near, neighbours.neighbours(other, 10))
    assert shared.mean() == pytest.approx(neighbours.chance(500, 10), rel=0.25) and neighbours.chance(500, 10) == 10 / 499
    assert (neighbours.kept(near, neighbours.neighbours(one @ np.linalg.qr(gaussian(30, 30, 3))[0], 10)) == 1).mean() > 0.99


def test_a_true_map_is_trusted_and_a_shuffled_one_is_not():
    vectors = gaussian(300, 2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # on a circle, so cosine and Euclid order alike
    good = neighbours.map_trust(vectors, vectors, 10, 0)
    assert (good.trustworthiness, good.continuity, good.rows) == (1.0, 1.0, 300)
    bad = neighbours.map_trust(vectors, vectors[np.random.default_rng(0).permutation(300)], 10, 0)
    assert 0.4 < bad.trustworthiness < 0.6 and 0.4 < bad.continuity < 0.6
    assert neighbours.map_trust(gaussian(1500, 4), gaussian(1500, 2), 10, 0).rows == neighbours.MOST_RANKED


# spread


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_intrinsic_dimension_is_that_of_the_sheet_not_of_the_space(dimension):
    vectors = on_a_sheet(3000, dimension, 40)
    assert spread.two_nn(vectors) == pytest.approx(dimension, rel=0.08)
    assert spread.mle_dimension(vectors, 10) == pytest.approx(dimension, rel=0.12)


def test_exact_duplicates_change_nothing_because_they_are_dropped_first():
    vectors = on_a_sheet(600, 3, 10)
    doubled = np.concatenate([vectors, vectors[:90]])
    assert spread.first_of_each(doubled).tolist() == list(range(600))
    assert spread.two_nn(doubled) == spread.two_nn(vectors) and spread.mle_dimension(doubled) == spread.mle_dimension(vectors)
    with pytest.raises(DataError, match="10 neighbours were asked of 3 different rows"):
        spread.mle_dimension(np.repeat(vectors[:3], 20, axis=0), 10)


def test_maximum_likelihood_by_hand():
    # 0, 1, 3 on a line, 2 neighbours: T2/T1 = 3/1, 2/1, 3/2; mean log = (log 3 + log 2 + log 1.5) / 3 = log 9 / 3
    assert spread.mle_dimension(np.array([[0.0], [1.0], [3.0]]), 2) == pytest.approx(3 / np.log(9))


def test_participation_ratio_is_the_u_statistic_over_all_fours():
    x = gaussian(7, 3) ** 3  # far from Gaussian
    fours = list(itertools.permutations(range(7), 4))
    square = np.mean([((x[a] - x[b]) @ (x[c] - x[d])) ** 2 for a, b, c, d in fours]) / 4
    trace = np.mean([((x[a] - x[b]) @ (x[a] - x[b])) * ((x[c] - x[d]) @ (x[c] - x[d])) for a, b, c, d in fours]) / 4
    assert spread.participation_ratio(x) == pytest.approx(trace / square, rel=1e-9)


def test_participation_ratio_of_few_rows_is_not_held_down_by_their_number():
    found = np.mean([spread.participation_ratio(gaussian(60, 200, seed)) for seed in range(20)])
    assert found == pytest.approx(200, rel=0.1)  # the plain ratio would say 200 * 60 / 260 = 46
    assert spread.participation_ratio(gaussian(60, 1) @ gaussian(1, 30)) == pytest.approx(1, rel=1e-6)
    with pytest.raises(DataError, match="4 rows or more"):
        spread.participation_ratio(gaussian(3, 5))


def test_effective_rank_reads_singular_values_by_hand():
    # centred rows (+-3, 0), (0, +-1): singular values 3 sqrt 2 and sqrt 2, shares 3/4 and 1/4
    vectors = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert spread.effective_rank(vectors + 5) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    wide = gaussian(12, 40)
    assert spread.effective_rank(wide) == pytest.approx(spread.effective_rank(wide @ np.linalg.qr(gaussian(40, 40, 2))[0])) and (
        spread.effective_rank(wide) < 11
    )


def test_mean_cosine_equals_that_of_all_pairs_and_one_loud_feature_explains_it():
    vectors = gaussian(80, 6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(80, dtype=bool)]
    assert spread.anisotropy(vectors).raw == pytest.approx(pairs.mean())
    vectors[:, 2] += 100
    loud = spread.anisotropy(vectors)
    assert loud.raw > 0.99 and abs(loud.centred) < 0.05 and loud.loudest > 0.99


def test_a_cloud_of_one_point_has_no_dimension():
    still = np.ones((30, 4))
    assert np.isnan(spread.participation_ratio(still)) and np.isnan(spread.effective_rank(still))
    with pytest.raises(DataError):
        spread.two_nn(still)


# classes


def test_nc1_is_the_trace_with_the_pseudo_inverse_with_more_features_than_rows_too():
    vectors, labels = labelled(40, 90, 5, 2.0)
    means = np.stack([vectors[labels == name].mean(0) for name in range(5)])
    within = sum(np.cov(vectors[labels == name].T, bias=True) * 8 for name in range(5)) / 40
    between = np.cov(means.T, bias=True)
    wanted = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 5
    assert classes.neural_collapse(vectors, labels, 0).nc1 == pytest.approx(wanted, rel=1e-6)


def test_complete_collapse_is_zero_everywhere():
    simplex = np.eye(4) - 0.25  # C class means at equal lengths and angles: cosine -1/3
    labels = np.repeat(np.arange(4), 6)
    found = classes.neural_collapse(simplex[labels] + 9, labels, 0, weights=3 * simplex, answers=labels)
    assert found.nc1 == pytest.approx(0) and found.nc2_norm == pytest.approx(0) and found.nc2_angle == pytest.approx(0, abs=1e-6)
    assert (found.ncc, found.nc4) == (1, 1) and found.nc3 == pytest.approx(0, abs=1e-9)


def test_nearest_means_of_noise_are_right_by_chance_only():
    labels = np.arange(200) % 4  # with means and rows from the same half, 300 features would tell nearly every row right
    assert classes.neural_collapse(gaussian(200, 300), labels, 0).ncc == pytest.approx(0.25, abs=0.1)


def test_one_class_is_a_sentence_and_a_class_of_one_row_takes_no_part():
    with pytest.raises(DataError, match="of one class only"):
        classes.neural_collapse(gaussian(20, 3), np.zeros(20, int), 0)
    vectors, labels = labelled(40, 6, 2, 3.0)
    more = classes.neural_collapse(np.concatenate([vectors, vectors[:1] + 50]), np.append(labels, 2), 0)
    assert more == classes.neural_collapse(vectors, labels, 0)


def test_alignment_and_uniformity_normalise_first_and_count_each_pair_once():
    vectors, labels = labelled(30, 5, 3, 1.0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [(a, b) for a in range(30) for b in range(a)]
    same = [((unit[a] - unit[b]) ** 2).sum() for a, b in pairs if labels[a] == labels[b]]
    all_of = [np.exp(-2 * ((unit[a] - unit[b]) ** 2).sum()) for a, b in pairs]
    assert classes.alignment(7 * vectors, labels) == pytest.approx(np.mean(same), rel=1e-5)
    assert classes.uniformity(7 * vectors, 0) == pytest.approx(np.log(np.mean(all_of)), rel=1e-4)
    assert classes.uniformity(np.ones((9, 4)), 0) == pytest.approx(0, abs=1e-5)


def test_far_classes_are_clean_and_mixed_ones_are_not():
    good, bad = (classes.clean(*labelled(150, 8, 3, apart), 0) for apart in (9.0, 0.0))
    assert good.silhouette > 0.7 and good.ami > 0.95 and good.davies_bouldin < 1
    assert abs(bad.silhouette) < 0.05 and bad.ami < 0.1 and bad.davies_bouldin > 3
    with pytest.raises(DataError):
        classes.clean(gaussian(20, 3), np.zeros(20, int), 0)


# two spaces


def test_debiased_cka_of_independent_gaussians_is_about_zero_where_the_plain_one_is_not():
    a, b = (torch.from_numpy(gaussian(64, 768, seed)) for seed in (0, 1))
    centred = [x - x.mean(0) for x in (a, b)]
    plain = (centred[1].T @ centred[0]).norm() ** 2 / ((centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm())
    assert plain > 0.9 and abs(debiased_cka([a, b])[0][1]) < 0.05
    many = [torch.from_numpy(gaussian(600, 8, seed)) for seed in (0, 1)]
    assert debiased_cka([many[0], many[0] @ torch.diag(torch.arange(1.0, 9).double())], 600)[0][1] > 0.7


def test_a_turned_scaled_padded_space_has_no_drift():
    one = gaussian(100, 6)
    wide = np.pad(4 * one, ((0, 0), (0, 3))) @ np.linalg.qr(gaussian(9, 9, 4))[0] + 2
    found = drift.procrustes(one, wide)
    assert found.residual == pytest.approx(0, abs=1e-9) and np.allclose(found.turned[:, :6], one, atol=1e-5)
    assert drift.procrustes(gaussian(2000, 6), gaussian(2000, 6, 1)).residual > 0.9


def test_procrustes_by_hand():
    # on a line: one = -1, 0, 1, two = 1, -2, 1; scaled to length 1 their product is 0, so nothing is explained
    assert drift.procrustes(np.array([[-1.0], [0], [1]]), np.array([[1.0], [-2], [1]])).residual == pytest.approx(1)
    with pytest.raises(DataError, match="2 and 3 rows"):
        drift.procrustes(np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(DataError, match="one point"):
        drift.procrustes(np.ones((3, 1)), np.arange(3.0)[:, None])


def test_on_a_shared_map_what_stands_still_has_no_arrow():
    one = gaussian(50, 5)
    two = one.copy()
    two[7] += 3
    before, after = drift.shared_map(one, two)
    still = np.delete(np.arange(50), 7)
    assert np.allclose(before[still], after[still], atol=1e-5) and np.linalg.norm(before[7] - after[7]) > 1
    assert drift.moved(one, two)[still].max() == 0 and drift.moved(one, two)[7] > 1
