"""What is said of a model: the ratings of those who serve it, as they stand on the ledger."""

from __future__ import annotations

import json
from typing import Any

import trio

from chain.codec import Record
from chain.state.keys import rating_key
from chain.state.ratings import LOST, TIED, VOID, WON, ExecutorRating
from chain.state.state import StateReader
from serving.api import Api
from serving.quality.model_reports import REPORT_INTERVAL_S, ModelReport, make_reports
from tests.serving.test_api import call
from tests.support.market_world import MODEL, Options, World, simulate


class RatedState(StateReader):
    """A state in which some accounts have ratings."""

    def __init__(self, state: StateReader, ratings: dict[bytes, ExecutorRating]) -> None:
        self._state = state
        self._ratings = {rating_key(key): rating for key, rating in ratings.items()}

    def get(self, key: bytes) -> Record | None:
        return self._ratings.get(key) or self._state.get(key)


def rate(*results: int | None) -> ExecutorRating:
    """The rating after these results, each about a request of another payer."""
    rating = ExecutorRating()
    for number, result in enumerate(results):
        rating = rating.add(bytes([number]) * 32, result)
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


def test_the_list_of_models_says_how_their_executors_have_done() -> None:
    async def play(world: World) -> None:
        node = world.gateway
        api = Api(node.dispatcher, reports=node.model_reports)

        async def ask(path: str) -> Any:
            responder, error = await call(api, path, method="GET")
            assert error is None
            return json.loads(responder.body)

        (entry,) = (await ask("/v1/models"))["data"]
        assert entry["wwwserve"] == {"executors": 2, "duels": 0, "win_rate": None}
        assert await ask(f"/v1/models/{MODEL}") == entry
        node.model_reports._reports[MODEL] = ModelReport(2, 3, 4)
        assert (await ask(f"/v1/models/{MODEL}"))["wwwserve"] == {"executors": 2, "duels": 3, "win_rate": 0.6667}
        await trio.sleep(REPORT_INTERVAL_S)
        assert await ask(f"/v1/models/{MODEL}") == entry, "it is made again by and by"

    simulate(play, Options(executors=2))


def test_a_model_without_executors_has_an_empty_report() -> None:
    async def play(world: World) -> None:
        report = world.gateway.model_reports.find("other")
        assert report == ModelReport() and report.to_plain() == {"executors": 0, "duels": 0, "win_rate": None}

    simulate(play, Options(executors=1))
