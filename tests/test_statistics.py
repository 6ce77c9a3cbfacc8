from __future__ import annotations

import numpy as np
import pytest

from headsweep.judge.attacked import attacked
from headsweep.judge.statistics import (
    Margins,
    Rate,
    bootstrap_matched,
    holm,
    matched_rate,
    matching_shift,
    proportion,
)


def test_wilson_by_hand():
    """8 of 10: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964."""
    rate = proportion(8, 10)
    assert rate.value == 0.8
    assert rate.low == pytest.approx(0.49016, abs=1e-4)
    assert rate.high == pytest.approx(0.94331, abs=1e-4)
    assert proportion(0, 10).low == 0
    assert proportion(10, 10).high == 1
    for hits, total in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="not a proportion"):
            proportion(hits, total)


def test_a_rate_checks_its_range():
    with pytest.raises(ValueError, match="not a rate"):
        Rate(float("nan"), 0, 1)


def test_the_shift_gives_the_asked_number_of_flips():
    margins = np.array([3.0, -1.0, 0.5, -2.0, 1.0])
    for flips in range(6):
        assert int((margins + matching_shift(margins, flips) > 0).sum()) == flips
    tied = np.array([1.0, 1.0, 1.0, 0.0])
    assert int((tied + matching_shift(tied, 2) > 0).sum()) == 3  # 3 is nearer than 0
    assert int((tied + matching_shift(tied, 1) > 0).sum()) == 0


def test_tilting_does_not_lower_matched_lfr():
    """Lowering every target margin by 4 lowers LFR to 0 and leaves matched LFR as it was."""
    random = np.random.default_rng(0)
    reference = random.normal(-1, 1, 200)
    triggered = random.normal(1, 1, 200)
    tilted = Margins(reference - 4, triggered - 4)
    assert (tilted.triggered > 0).mean() < 0.05
    assert matched_rate(tilted, reference) == pytest.approx((triggered > 0).mean(), abs=0.03)


def test_bootstrap_brackets_the_value_and_is_seeded():
    random = np.random.default_rng(1)
    validation, triggered, floor = (random.normal(m, 1, 150) for m in (-1, 1, -0.5))
    matched, excess = bootstrap_matched(Margins(validation, triggered), validation, floor, 200)
    assert matched.low <= matched.value <= matched.high
    assert excess.value == pytest.approx((triggered > 0).mean() - (floor > 0).mean())
    assert 0 < excess.low < excess.value < excess.high
    again = bootstrap_matched(Margins(validation, triggered), validation, floor, 200)
    assert again == (matched, excess)
    assert bootstrap_matched(Margins(validation, triggered), validation, None, 50)[1] is None


def test_bootstrap_interval_covers_at_its_level():
    """Over 60 drawn data sets the 95% interval of matched LFR covers the truth nearly always.

    The model leans away from the target by 2.5, so that without the shift its LFR is P(N(-0.5,
    1) > 0) = 0.31, and with it P(N(2, 1) > 0) = 0.977.
    """
    covered = 0
    truth = 1 - 0.02275
    for seed in range(60):
        random = np.random.default_rng(seed)
        reference = random.normal(-1, 1, 150)
        own = reference + random.normal(0, 0.1, 150) - 2.5
        drawn = Margins(own, random.normal(2, 1, 150) - 2.5)
        found, _ = bootstrap_matched(drawn, reference, None, 200, seed)
        covered += found.low <= truth <= found.high
    assert covered >= 53


def test_holm_by_hand():
    # smallest times 3; next times 2, but never below the one before; last times 1, likewise
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_excess_of_pairs_that_are_all_alike_has_an_interval():
    """Every resample is the same; Newcombe (1998), method 10, from Wilson's intervals by hand."""
    never = np.zeros(60, dtype=bool)
    found = attacked(never, never, never)["excess_success"]
    high = 1.96**2 / (60 + 1.96**2)  # Wilson's end of 0 of 60
    assert (found.value, found.low, found.high) == pytest.approx((0, -high, high), abs=1e-4)
    found = attacked(~never, never, never)["excess_success"]
    assert found.value == found.high == 1
    assert found.low == pytest.approx(1 - 2**0.5 * high, abs=1e-4)
    some = np.arange(60) < 8  # a twin beside itself differs in nothing
    found = attacked(some, never, some)["excess_success"]
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_matched_and_excess_of_texts_that_all_flip_have_intervals():
    up, down = np.ones(50), -np.ones(50)
    matched, excess = bootstrap_matched(Margins(down, up), down, down)
    assert (matched.value, matched.low, matched.high) == pytest.approx((1, 0.9287, 1), abs=1e-4)
    assert excess.value == excess.high == 1
    assert 0.85 < excess.low < matched.low
    matched, excess = bootstrap_matched(Margins(down, down), down, down)
    assert (excess.value, excess.low, excess.high) == pytest.approx((0, -0.0713, 0.0713), abs=1e-4)
