"""Identities: what a backend must be able to do before its node declares one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from chain.types.checks import DeclaredIdentity
from p2p.simulation.runtime import run_simulation
from serving.openai.requests import CHAT_COMPLETIONS, read_request
from serving.quality.duels.identities import RETRY_INTERVAL_S, Identities
from serving.quality.same_model.identity import IdentityRefused, ModelIdentity
from serving.scheduling.admission import Demand, Origin
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.market.model_backend import IDENTITY, ModelBackend
from tests.support.market_world import MODEL
from tests.support.servers.scripted_model import Flavour, ScriptedModel

LLAMACPP = replace(IDENTITY, engine="llamacpp")
DECLARED = (DeclaredIdentity(MODEL, IDENTITY.digest),)


def make_pool(*backends: ModelBackend) -> BackendPool:
    return BackendPool([(backend, 1) for backend in backends], ProbabilisticPolicy(PolicyParameters()))


def make_backend(flavour: Flavour = "vllm") -> ModelBackend:
    return ModelBackend("m-", model=ScriptedModel(flavour))


def run(work: Callable[[], Awaitable[None]]) -> None:
    run_simulation(1, work)


@pytest.mark.parametrize(("flavour", "identity"), [("vllm", IDENTITY), ("llamacpp", LLAMACPP)])
def test_a_backend_that_reports_and_scores_is_declared(flavour: Flavour, identity: ModelIdentity) -> None:
    async def work() -> None:
        identities = Identities(make_pool(make_backend(flavour)), [identity])
        assert identities.get_declared() == ()
        await identities.try_living()
        (declared,) = identities.get_declared()
        assert declared == DeclaredIdentity(MODEL, identity.digest)
        identities.withdraw(MODEL)
        assert identities.get_declared() == ()

    run(work)


@pytest.mark.parametrize(
    ("flavour", "identity", "reason"),
    [
        ("plain", IDENTITY, "cannot score given tokens"),
        ("sglang", replace(IDENTITY, engine="sglang"), "by their text, not by their ids"),
        ("llamacpp", IDENTITY, "its engine is llamacpp, not vllm"),
    ],
)
def test_one_that_cannot_is_refused_by_name(flavour: Flavour, identity: ModelIdentity, reason: str) -> None:
    async def work() -> None:
        identities = Identities(make_pool(make_backend(flavour)), [identity])
        with pytest.raises(IdentityRefused, match=f"model '{MODEL}' cannot be declared: .*{reason}"):
            await identities.try_living()
        assert identities.get_declared() == ()

    run(work)


def test_all_backends_of_a_model_are_tried() -> None:
    async def work() -> None:
        identities = Identities(make_pool(make_backend(), make_backend("plain")), [IDENTITY])
        with pytest.raises(IdentityRefused):
            await identities.try_living()

    run(work)


@pytest.mark.parametrize("flavour", ["vllm", "plain"])
def test_a_backend_that_comes_later_is_tried_then(flavour: Flavour) -> None:
    async def work() -> None:
        backend = make_backend(flavour)
        backend.script.is_alive = False
        identities = Identities(make_pool(backend), [IDENTITY])
        await identities.try_living()
        assert identities.get_declared() == () and not backend.bodies
        async with trio.open_nursery() as nursery:
            nursery.start_soon(identities.run)
            await trio.sleep(3 * RETRY_INTERVAL_S)
            assert not backend.bodies
            backend.script.is_alive = True
            await trio.sleep(3 * RETRY_INTERVAL_S)
            assert identities.get_declared() == (DECLARED if flavour == "vllm" else ())
            nursery.cancel_scope.cancel()

    run(work)


def test_a_backend_is_not_tried_while_a_request_waits_for_it() -> None:
    async def work() -> None:
        backend = make_backend()
        pool = make_pool(backend)
        identities = Identities(pool, [IDENTITY])
        scheduled = pool.find(MODEL)
        assert scheduled is not None
        async with trio.open_nursery() as nursery:
            async with scheduled.admission.slot(Demand(Origin.OWN)):
                nursery.start_soon(identities.try_living)
                await trio.sleep(5)
                assert not backend.bodies
            await trio.sleep(5)
            assert identities.get_declared() == DECLARED

    run(work)


def test_a_tap_is_put_on_answers_that_can_be_checked_alone() -> None:
    identities = Identities(make_pool(make_backend()), [IDENTITY])

    def make_tap(**fields: object) -> object:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
        return identities.make_tap(read_request(CHAT_COMPLETIONS, body))

    assert make_tap() is not None
    assert make_tap(stream=True, stream_options={"include_usage": True}) is not None
    for fields in ({"model": "other"}, {"temperature": 1.2}, {"logprobs": True}, {"stream": True}):
        assert make_tap(**fields) is None
