"""Content that is shown and does not count, and content that counts and no client shows."""

from __future__ import annotations

from unittest import mock

from chain.types.operations import Usage
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market import scripted_backend
from tests.support.market_world import MODEL, Options, World, ask, make_request, simulate
from tests.support.openai_answers import DONE, make_event

NAME = "the whole answer, put into the name of a tool " * 15
"""Shown by a client that knows the tool; parsers pass on whatever the model wrote."""
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": NAME, "arguments": "{}"}}
TEXT = "Hi."
TOOLS = {"tools": [{"type": "function", "function": {"name": "find"}}]}
ANSWERS = (
    ({"delta": {"tool_calls": [CALL]}}, TOOLS, len(NAME) + 2),
    ({"delta": {"content": TEXT}, "text": "x" * 780}, {}, len(TEXT)),
    ({"delta": {"content": TEXT, "tool_calls": [CALL]}}, {}, len(TEXT)),
)
"""Choices of an event, fields of the request, and bytes that a client shows."""


def run() -> Outcome:
    worth: list[int] = []
    paid: list[int] = []

    async def play(world: World) -> None:
        price = world.genesis.parameters.get_price(MODEL)
        for choice, fields, shown in ANSWERS:
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            events = [make_event({"choices": [{"index": 0, **choice, "finish_reason": None}]})]
            events.append(make_event({"choices": [end]}) + DONE)

            class Events(scripted_backend.Pieces):
                def __init__(self, name: str, script: object, events: list[bytes] = events) -> None:
                    super().__init__(events)

            request = make_request(**fields)
            with mock.patch.object(scripted_backend, "_Events", Events):
                result = await ask(world.gateway, request)
            assert result.status == 200 and result.broken is None
            worth.append(price.compute(Usage(len(request.body), shown)))
        await world.settle()
        paid.extend(item.delivery.amount for item in world.captured)

    simulate(play, Options(executors=1))
    assert len(paid) == len(worth)
    for_nothing = sum(max(0, more - less) for more, less in zip(sorted(worth), sorted(paid), strict=True))
    unshown = sum(max(0, more - less) for more, less in zip(sorted(paid), sorted(worth), strict=True))
    return Outcome(0, for_nothing + unshown, for_nothing + unshown, "each answer is paid for what is shown of it")


ATTACK = Attack(
    "content that is shown and not paid, or paid and not shown",
    Outcome(0, 49_890, 49_890, "9,198 bytes shown for nothing, 780 paid and not shown"),
    run,
)
