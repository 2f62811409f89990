"""What is concluded from held-out images: harm, false discoveries, classes with few images."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from tamis.core.rng import numpy_generator
from tamis.search.label_aware.evidence import Sums, false_discovery_rates, judge


def sums_of(clean, after, labels, classes):
    def by(values):
        return np.bincount(labels, weights=values, minlength=classes)

    return Sums(n=by(np.ones(len(labels))), clean=by(clean), clean2=by(clean**2), seen=by(after)[None],
                seen2=by(after**2)[None], both=by(after * clean)[None])  # fmt: skip


def drawn(harms, each, seed, spread=0.2):
    """Probabilities before and after an operation, of classes with these harms and numbers of images."""
    rng = numpy_generator(seed, 5)
    labels = np.repeat(np.arange(len(harms)), each)
    clean = np.clip(rng.normal(0.8, 0.15, len(labels)), 0.05, 1)
    after = np.clip(clean * (1 - np.asarray(harms)[labels]) + rng.normal(0, spread, len(labels)), 0, 1)
    return sums_of(clean, after, labels, len(harms))


def test_sums_add_up_to_what_images_say():
    sums = drawn([0.0, 0.5], [400, 400], 1, spread=0.05)
    harm, variance = sums.harms()
    assert np.allclose(harm[0], [0.0, 0.5], atol=0.03)
    assert 0.001 < variance[0, 1] < 0.01
    empty = drawn([0.0, 0.5], [40, 0], 1)
    assert np.isinf(empty.harms()[1][0, 1])
    verdict = judge(empty, margin=0.1, relative=True, shrinkage=5)
    assert verdict.p[0, 1] == 1
    assert not verdict.plain[0, 1]
    assert np.isnan(verdict.harm[0, 1])


def vetoes(verdicts, bound=0.1):
    rates = false_discovery_rates([verdict.p[-1] for verdict in verdicts])
    return np.stack([(r <= bound) & v.plain[-1] for r, v in zip(rates, verdicts, strict=True)], 1)


@pytest.mark.parametrize(("relative", "shared"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_where_nothing_depends_on_the_class_nothing_is_vetoed(relative, shared):
    """Also where a judge dislikes an operation for every class alike; ten images a class, 50 classes, 16 operations."""
    found = []
    for trial in range(20):
        verdicts = [
            judge(drawn([shared] * 50, [10] * 50, 100 * trial + op), margin=0.05, relative=relative, shrinkage=5)
            for op in range(16)
        ]
        found.append(vetoes(verdicts).sum())
    assert np.mean(np.array(found) > 0) <= 0.15
    assert np.mean(found) < 0.5


def test_planted_harm_is_found_and_few_vetoes_are_false():
    truth = np.zeros((40, 8), dtype=bool)
    truth[:10, :3] = True
    false = right = 0
    for trial in range(10):
        verdicts = [
            judge(drawn(0.6 * truth[:, op], [15] * 40, 1000 + 8 * trial + op), margin=0.05, relative=True, shrinkage=5)
            for op in range(8)
        ]
        found = vetoes(verdicts)
        false, right = false + (found & ~truth).sum(), right + (found & truth).sum()
    assert right / (10 * truth.sum()) > 0.95
    assert false / (false + right) < 0.1


def test_a_class_with_few_images_is_left_alone_unless_its_harm_is_plain():
    few = drawn([0.25] + [0.0] * 19, [6] + [40] * 19, 3, spread=0.3)
    many = drawn([0.25] + [0.0] * 19, [400] + [40] * 19, 3, spread=0.3)
    plain = drawn([0.95] + [0.0] * 19, [6] + [40] * 19, 3)
    said = [vetoes([judge(sums, margin=0.05, relative=True, shrinkage=5)])[0, 0] for sums in (few, many, plain)]
    assert said == [False, True, True]


def test_harm_to_most_classes_counts_for_an_added_operation_only():
    sums = drawn([0.6] * 20, [40] * 20, 4)
    assert vetoes([judge(sums, margin=0.2, relative=False, shrinkage=5)]).all()
    assert not vetoes([judge(sums, margin=0.05, relative=True, shrinkage=5)]).any()


def test_rates_are_benjaminis_and_hochbergs():
    p = numpy_generator(2).random((3, 7)) ** 3
    got = false_discovery_rates([p[0], p[1:]])
    assert np.allclose(np.concatenate([got[0], got[1].ravel()]), false_discovery_control(p.ravel()))
    one = false_discovery_rates([np.array([0.01, 1.0, 1.0])])[0]
    assert one.tolist() == [0.01, 1.0, 1.0], "what was not tested takes no part"
