"""Lower bounds on epsilon from an attack's scores: one-run (Steinke, Nasr, Jagielski 2023) and a Gaussian inversion of its error rates."""

import math

import numpy as np
from scipy import stats

from earmark_shared.privacy.accountant import closed_form_epsilon


def one_run_p_value(canaries, guesses, correct, epsilon, delta):
    """How likely `correct` of `guesses` are under (epsilon, delta): Theorem 5.2 and the paper's own listing."""
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    tail = np.cumsum(stats.binom.pmf(correct - np.arange(1, correct + 1), guesses, chance))
    worst = float((tail / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, float(stats.binom.sf(correct - 1, guesses, chance)) + 2.0 * canaries * delta * worst)


def one_run_epsilon(scores, present, *, delta, risk, guesses=400):
    """The largest epsilon refuted with certainty `1 - risk`, guessing only where the scores are most extreme."""
    order = np.argsort(scores)
    half = guesses // 2
    correct = int((~present[order[:half]]).sum() + present[order[-half:]].sum())
    low, high = 0.0, 20.0
    if one_run_p_value(len(scores), guesses, correct, low, delta) > risk:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if one_run_p_value(len(scores), guesses, correct, middle, delta) <= risk else (low, middle)
    return low


def gaussian_epsilon(scores, present, *, delta, risk):
    """The epsilon of the weakest Gaussian mechanism that fits: threshold from one half, Clopper-Pearson bounds from the other."""
    learn, judge = np.arange(len(scores)) % 2 == 0, np.arange(len(scores)) % 2 == 1
    candidates = np.quantile(scores[learn], np.linspace(0.01, 0.99, 99))
    best = max(candidates, key=lambda cut: _separation(scores[learn], present[learn], cut, risk))
    distance = _separation(scores[judge], present[judge], best, risk)
    return closed_form_epsilon(1.0 / distance, delta) if distance > 0.0 else 0.0


def _separation(scores, present, cut, risk):
    hits, ins = int((scores[present] > cut).sum()), int(present.sum())
    alarms, outs = int((scores[~present] > cut).sum()), int((~present).sum())
    rate_low = stats.beta.ppf(risk / 2, hits, ins - hits + 1) if hits else 0.0
    alarm_high = stats.beta.ppf(1 - risk / 2, alarms + 1, outs - alarms) if alarms < outs else 1.0
    return float(stats.norm.ppf(rate_low) - stats.norm.ppf(alarm_high)) if rate_low > 0 and alarm_high < 1 else 0.0


def auc(scores, present):
    """The chance that a present canary scores above an absent one."""
    return float(stats.mannwhitneyu(scores[present], scores[~present]).statistic / (present.sum() * (~present).sum()))
