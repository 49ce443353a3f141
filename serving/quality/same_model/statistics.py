"""The two statistics of a check: how far a transcript and the scores of a second backend are apart.

- The **shortfall** is how much less likely the *chosen* tokens are under the scorer's weights than a draw from those
  weights would be, in standard deviations of such draws. It finds a small model that writes while the declared one only
  supplies log-probabilities.
- The **distance** is the mean total variation between the listed probabilities of both. It finds other weights and
  other number formats, whatever was drawn.

Both are bounded, so that no single token decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.quality.same_model.transcript import TOP_TOKENS, Transcript, TranscriptToken

SCORED_TOKENS = 20
"""Likeliest tokens that a scorer lists at each position."""
MAX_SHORTFALL_NATS = 5.0
"""Most that one token counts for, in either direction."""
NOISE_NATS = 0.1
"""Standard deviation granted to each token beside that of the draw, for ties that rounding decides."""
MIN_TAIL_MASS = 1e-9
"""Least probability that is ascribed to all tokens that are not listed."""

Distribution = Mapping[int, float]
"""The likeliest tokens at one position: log-probabilities in nats by token id."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The statistics of one check over ``positions`` tokens.

    ``shortfall`` is in standard deviations, ``distance`` is a probability from 0 to 1.
    """

    shortfall: float
    distance: float
    positions: int


def measure(transcript: Transcript, scores: Mapping[int, Distribution], temperature: float) -> Measurement:
    """Compare a transcript with the scores of some of its positions; it was sampled at ``temperature`` (0 to 1).

    Raises:
        ValueError: there are no scores, or some of no token.
    """
    if not scores or not all(0 <= position < len(transcript.tokens) for position in scores):
        raise ValueError("the scores are of no position, or of one that the transcript does not have")
    tokens = [(transcript.tokens[position], scored) for position, scored in sorted(scores.items())]
    surprises = [compute_surprise(token.id, scored, temperature) for token, scored in tokens]
    variance = math.fsum(variance + NOISE_NATS**2 for _, variance in surprises)
    return Measurement(
        shortfall=math.fsum(shortfall for shortfall, _ in surprises) / math.sqrt(variance),
        distance=math.fsum(compute_distance(token, scored) for token, scored in tokens) / len(tokens),
        positions=len(tokens),
    )


def compute_surprise(chosen: int, scored: Distribution, temperature: float) -> tuple[float, float]:
    """The mean log-probability of a draw minus that of the chosen token, and the variance of the former: nats, nats².

    All tokens that are not listed count as one, drawn with the probability that the listed ones leave. Its
    log-probability is that of all of them together, but at most the lowest that is listed: a scorer that is unsure
    makes them together likelier than the likeliest token, and tokens that it would never choose must not pass for good
    ones. At temperature 0 every draw is the likeliest token. Between 0 and 1 it is not known how often an unlisted
    token is drawn: at least never, and at most as if each of them were as likely as the last that is listed. The lower
    of the two averages is taken, in favour of the answer.
    """
    tail = math.log(max(MIN_TAIL_MASS, 1 - math.fsum(map(math.exp, scored.values()))))
    best, least = max(scored.values()), min(scored.values())
    rare = min(tail, least)
    if temperature == 0:
        mean, variance = best, 0.0
    else:
        listed = [(logprob, math.exp((logprob - best) / temperature)) for logprob in scored.values()]
        most = math.exp(tail - least + (least - best) / temperature)
        weights = (most,) if temperature == 1 else (0.0, most)
        mean, variance = min(_compute_moments([*listed, (rare, weight)]) for weight in weights)
    shortfall = mean - scored.get(chosen, rare)
    return max(-MAX_SHORTFALL_NATS, min(MAX_SHORTFALL_NATS, shortfall)), variance


def _compute_moments(drawn: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of values with weights."""
    total = math.fsum(weight for _, weight in drawn)
    mean = math.fsum(value * weight for value, weight in drawn) / total
    return mean, math.fsum((value - mean) ** 2 * weight for value, weight in drawn) / total


def compute_distance(reported: TranscriptToken, scored: Distribution) -> float:
    """Half the sum of the differences of probability over the tokens that either side lists among its first five.

    A token that one side does not list is at most as probable there as the least probable token that it lists. The
    difference is then taken to that bound, so that the result is never above the total variation distance.
    """
    mine = {each.id: math.exp(each.logprob) for each in reported.top}
    theirs = {token: math.exp(logprob) for token, logprob in scored.items()}
    first = sorted(theirs, key=lambda token: (-theirs[token], token))[:TOP_TOKENS]
    least_of_mine, least_of_theirs = min(mine.values()), min(theirs.values())
    total = 0.0
    for token in mine.keys() | set(first):
        if token not in theirs:
            total += max(0.0, mine[token] - least_of_theirs)
        elif token not in mine:
            total += max(0.0, theirs[token] - least_of_mine)
        else:
            total += abs(mine[token] - theirs[token])
    return min(1.0, total / 2)
