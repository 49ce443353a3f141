"""What is said of a model: the ratings of those who serve it, as they stand on the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio

from chain.codec import Record
from chain.state.keys import check_history_key, rating_key
from chain.state.ratings import LOST, TIED, VOID, WON, ExecutorRating
from chain.state.sequential_test import AccountHistory, CheckHistory
from chain.state.state import StateReader
from serving.api import Api
from serving.quality.model_reports import REPORT_INTERVAL_S, IdentityReport, ModelReport, make_reports
from tests.support.api_calls import call
from tests.support.market.check_world import CheckOptions, wait_for_identities
from tests.support.market.model_backend import IDENTITY
from tests.support.market_world import MODEL, Options, World, simulate


class RatedState(StateReader):
    """A state in which some accounts have ratings, and other entries beside them."""

    def __init__(
        self, state: StateReader, ratings: dict[bytes, ExecutorRating], entries: Mapping[bytes, Record] | None = None
    ) -> None:
        self._state = state
        self._entries = {**{rating_key(key): rating for key, rating in ratings.items()}, **(entries or {})}

    def get(self, key: bytes) -> Record | None:
        return self._entries.get(key) or self._state.get(key)


def rate(*results: int | None) -> ExecutorRating:
    """The rating after these results, each about a request of another payer."""
    rating = ExecutorRating()
    for number, result in enumerate(results):
        rating = rating.add(bytes([number]) * 32, result, 1)
    return rating


def test_a_report_adds_up_the_ratings_of_all_executors() -> None:
    async def play(world: World) -> None:
        first, second, _ = (member.public_key for member in world.members[1:])
        state = world.gateway.engine.state
        assert make_reports(state) == {MODEL: ModelReport(executors=3)}
        ratings = {first: rate(WON, WON, TIED, VOID, None), second: rate(LOST)}
        (report,) = make_reports(RatedState(state, ratings)).values()
        assert report == ModelReport(executors=3, duels=4, won_points=5)
        assert report.win_rate == 5 / 8

    simulate(play, Options(executors=3))


def test_the_checks_of_executors_are_added_up_by_the_identity_that_they_declare() -> None:
    async def play(world: World) -> None:
        await wait_for_identities(world)
        first, second = (member.public_key for member in world.members[1:])
        state, digest = world.gateway.engine.state, IDENTITY.digest
        (report,) = make_reports(state).values()
        assert report.identities == {digest: IdentityReport(executors=2)}
        histories = {
            check_history_key(first, digest): AccountHistory(CheckHistory(9, 1), CheckHistory(9, 0)),
            check_history_key(second, digest): AccountHistory(CheckHistory(4, 0), CheckHistory(4, 2)),
        }
        (report,) = make_reports(RatedState(state, {}, histories)).values()
        assert report.identities == {digest: IdentityReport(2, 13, 1, 2)}
        described = report.to_plain()["identities"]
        counts = {"executors": 2, "checks": 13, "shortfall_failures": 1, "distance_failures": 2}
        assert described == [{"digest": digest.hex(), **counts}]

    simulate(play, CheckOptions(executors=2))


def test_the_list_of_models_says_how_their_executors_have_done() -> None:
    async def play(world: World) -> None:
        node = world.gateway
        api = Api(node.dispatcher, reports=node.model_reports)

        async def ask(path: str) -> Any:
            responder, error = await call(api, path, method="GET")
            assert error is None
            return json.loads(responder.body)

        (entry,) = (await ask("/v1/models"))["data"]
        assert entry["wwwserve"] == {"executors": 2, "duels": 0, "win_rate": None, "identities": []}
        assert await ask(f"/v1/models/{MODEL}") == entry
        node.model_reports._reports[MODEL] = ModelReport(2, 3, 4)
        report = (await ask(f"/v1/models/{MODEL}"))["wwwserve"]
        assert report == {"executors": 2, "duels": 3, "win_rate": 0.6667, "identities": []}
        await trio.sleep(REPORT_INTERVAL_S)
        assert await ask(f"/v1/models/{MODEL}") == entry, "it is made again by and by"

    simulate(play, Options(executors=2))


def test_a_model_without_executors_has_an_empty_report() -> None:
    async def play(world: World) -> None:
        report = world.gateway.model_reports.find("other")
        assert report == ModelReport()
        assert report.to_plain() == {"executors": 0, "duels": 0, "win_rate": None, "identities": []}

    simulate(play, Options(executors=1))
