"""What is made of duels, and how the strong judge decides; the network's parameters are those of a chain that works."""

from __future__ import annotations

import pytest

from benchmarks.quality.duel_outcomes import (
    DuelOutcome,
    compute_all_moved,
    compute_mean_moved,
    count_abstentions,
    count_inversions,
    count_mismatches,
    count_wins,
    read_outcomes,
)
from benchmarks.quality.ordering import (
    CLASSES,
    NODES_PER_CLASS,
    PARAMETERS,
    Market,
    get_class,
    make_charts,
    make_figures,
)
from benchmarks.quality.ordering_servers import NO_SCORE, choose_letter, compute_score
from chain.audit.duels import DuelHistory
from chain.parameters.duel_economics import check_duels
from chain.state.duel_records import REVEAL, Duel, JudgeSeat
from chain.transition.duels.money import Movement
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import ABSTAIN, DRAW, A, B, DeclaredJudge, DuelBallot

BEST, MIDDLE, WORST = CLASSES
EXECUTOR, CHALLENGER, JUDGE, REPEATER = (bytes([number]) * 32 for number in range(1, 5))
PRICE = 2_000
JUDGE_MODEL = DeclaredJudge("judge", bytes(32), False)
WON, LOST, TIE = DuelVerdict.EXECUTOR_WON, DuelVerdict.EXECUTOR_LOST, DuelVerdict.TIE


def make_outcome(
    executor: str, challenger: str, verdict: DuelVerdict, moved: tuple[float, float] = (0, 0)
) -> DuelOutcome:
    return DuelOutcome(executor, challenger, verdict, *moved)


def make_history(
    first: DuelBallot | None,
    again: DuelBallot | None = None,
    *,
    verdict: DuelVerdict | None = WON,
    challenger: bytes | None = CHALLENGER,
    moved: tuple[tuple[bytes, int], ...] = (),
) -> DuelHistory:
    seats = (JudgeSeat(JUDGE, JUDGE_MODEL, False, bytes(32), first),)
    repeats = (JudgeSeat(REPEATER, JUDGE_MODEL, False, bytes(32), again, repeats=JUDGE),)
    duel = Duel(
        payer=bytes(32),
        executor=EXECUTOR,
        model="model",
        amount=PRICE,
        rate=1_000,
        request_digest=bytes(32),
        response_digest=bytes(32),
        stage=REVEAL,
        ends_at=0,
        challenger=challenger,
        answer_digest=bytes(32),
        silent=(),
        seats=seats,
        locked=0,
        reserved=0,
        repeats=repeats,
    )
    movements = [Movement(account, amount) for account, amount in moved]
    return DuelHistory(bytes(32), duel, settled_at=1 if verdict else None, verdict=verdict, movements=movements)


def test_the_chain_of_the_network_passes_the_check_of_its_economics() -> None:
    check_duels(PARAMETERS)
    assert PARAMETERS.duels.rate == 1_000
    duels = PARAMETERS.duels
    cost = duels.judge + duels.challenger + duels.executor_won
    assert cost <= duels.levy, "the levy on the first capture pays for its duel"


def test_each_class_has_two_nodes_besides_the_one_that_sends_requests() -> None:
    served = [get_class(number) for number in range(1, 1 + NODES_PER_CLASS * len(CLASSES))]
    assert served == [BEST, BEST, MIDDLE, MIDDLE, WORST, WORST]
    assert get_class(0) == BEST


def test_a_win_counts_for_either_party_and_a_tie_for_half() -> None:
    outcomes = [
        make_outcome(BEST, WORST, WON),
        make_outcome(WORST, BEST, LOST),
        make_outcome(BEST, MIDDLE, TIE),
        make_outcome(MIDDLE, BEST, DuelVerdict.IDENTICAL),
        make_outcome(MIDDLE, WORST, LOST),
    ]
    found = {name: count_wins(outcomes, name) for name in CLASSES}
    assert {name: (wins.hits, wins.cases) for name, wins in found.items()} == {
        BEST: (3.0, 4),
        MIDDLE: (1.0, 3),
        WORST: (1.0, 3),
    }
    against = count_wins(outcomes, BEST, MIDDLE)
    assert (against.hits, against.cases) == (1.0, 2)


def test_duels_within_a_class_and_those_without_a_comparison_count_for_no_win_rate() -> None:
    outcomes = [make_outcome(BEST, BEST, WON), make_outcome(BEST, WORST, DuelVerdict.CHALLENGER_MISSING)]
    assert count_wins(outcomes, BEST).cases == 0 and count_wins(outcomes, WORST).cases == 0


def test_credit_is_the_mean_of_both_roles_however_often_each_was_drawn() -> None:
    outcomes = [
        make_outcome(BEST, WORST, WON, (0.1, 0.2)),
        make_outcome(WORST, BEST, LOST, (-0.25, 0.3)),
        make_outcome(BEST, BEST, TIE, (0.0, 0.4)),
        make_outcome(BEST, WORST, LOST, (-0.25, 0.3)),
    ]
    assert compute_mean_moved(outcomes, BEST) == pytest.approx(((0.1 + 0.0 - 0.25) / 3 + (0.3 + 0.4) / 2) / 2)
    assert compute_mean_moved(outcomes, WORST) == pytest.approx((-0.25 + (0.2 + 0.3) / 2) / 2)
    assert compute_mean_moved(outcomes[:1], WORST) == 0.2
    assert compute_mean_moved(outcomes, MIDDLE) == 0.0
    assert compute_all_moved(outcomes, BEST) == pytest.approx(0.1 + 0.3 + 0.4 - 0.25)
    assert compute_all_moved(outcomes, WORST) == pytest.approx(0.2 - 0.25 + 0.3)


def test_outcomes_are_read_from_settled_duels_with_a_challenger() -> None:
    moved = ((EXECUTOR, 200), (CHALLENGER, 400), (JUDGE, 600), (CHALLENGER, -100))
    histories = [
        make_history(DuelBallot(A), moved=moved),
        make_history(None, verdict=None),
        make_history(DuelBallot(DRAW), verdict=DuelVerdict.USABLE, challenger=None),
    ]
    outcomes = read_outcomes(histories, {EXECUTOR: BEST, CHALLENGER: WORST})
    assert outcomes == [DuelOutcome(BEST, WORST, WON, 0.1, 0.15)]


@pytest.mark.parametrize(
    ("values", "inversions"), [((3, 2, 1), 0), ((3, 1, 2), 1), ((2, 2, 1), 1), ((1, 2, 3), 3), ((), 0)]
)
def test_pairs_out_of_order_are_counted_and_equal_ones_with_them(values: tuple[float, ...], inversions: int) -> None:
    assert count_inversions(values) == inversions


def test_votes_are_compared_with_those_that_ran_them_again() -> None:
    histories = [
        make_history(DuelBallot(A), DuelBallot(A)),
        make_history(DuelBallot(A), DuelBallot(B)),
        make_history(DuelBallot(A), DuelBallot(A, unusable=B)),
    ]
    found = count_mismatches(histories)
    assert (found.hits, found.cases) == (2, 3)


def test_votes_that_say_nothing_or_lack_a_text_are_not_compared() -> None:
    histories = [
        make_history(DuelBallot(ABSTAIN), DuelBallot(A)),
        make_history(DuelBallot(A), DuelBallot(A, missing=B)),
        make_history(DuelBallot(A), None),
    ]
    assert count_mismatches(histories).cases == 0
    abstentions = count_abstentions(histories)
    assert (abstentions.hits, abstentions.cases) == (1, 5)


def test_a_score_is_the_mean_log_probability_and_a_token_not_listed_counts_as_the_least_likely() -> None:
    listed = {0: {5: -0.5, 6: -2.0}, 1: {7: -1.0, 8: -3.0}}
    assert compute_score([5, 9], listed) == pytest.approx((-0.5 - 3.0) / 2)
    assert compute_score([], {}) == NO_SCORE


def test_the_strong_judge_names_the_answer_with_the_higher_score() -> None:
    assert [choose_letter(-1.0, -2.0), choose_letter(-2.0, -1.0), choose_letter(-1.0, -1.0)] == ["A", "B", "C"]
    assert choose_letter(NO_SCORE, -9.0) == "B" and choose_letter(NO_SCORE, NO_SCORE) == "C"


def make_market(best_wins: int) -> Market:
    """Twenty duels of the best class with the worst one, and some in which the class between is between."""
    outcomes = [make_outcome(BEST, WORST, WON if number < best_wins else LOST) for number in range(20)]
    outcomes += [make_outcome(BEST, MIDDLE, WON), make_outcome(MIDDLE, WORST, WON)]
    return Market(22, [make_history(DuelBallot(A)) for _ in outcomes], outcomes)


@pytest.mark.parametrize(("best_wins", "missed"), [(18, 0), (12, 1), (2, 2)])
def test_a_full_run_fails_unless_the_classes_are_ordered_and_apart(best_wins: int, missed: int) -> None:
    market = make_market(best_wins)
    figures = list(make_figures("strong judge", market, is_limited=True))
    assert sum(figure.is_missed for figure in figures) == missed
    assert not any(figure.is_missed for figure in make_figures("weak judge", market, is_limited=False))


def test_a_duel_without_an_end_fails_every_run() -> None:
    market = Market(1, [make_history(None, verdict=None)], [])
    missed = [figure.name for figure in make_figures("weak judge", market, is_limited=False) if figure.is_missed]
    assert missed == ["weak judge: answers without a settled duel"]


def test_the_charts_have_a_bar_for_each_class_and_judge() -> None:
    charts = make_charts({"strong judge": make_market(18), "weak judge": make_market(11)})
    assert all(len(series.y) == len(CLASSES) == len(chart.categories) for chart in charts for series in chart.series)
    assert [len(chart.series) for chart in charts] == [1, 1, 2]
