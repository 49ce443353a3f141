"""Conversations: the next turn finds the turn before, and nothing else does."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.openai.prefixes import MAX_PREFIXES, hash_prefixes
from serving.prediction.affinity import MAX_CONVERSATIONS, Conversations

ONE, TWO = b"1" * 32, b"2" * 32


def say(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def test_the_next_turn_finds_who_answered_the_last() -> None:
    conversations = Conversations(random.Random(0))
    conversations.note(hash_prefixes("m", say("hello")), ONE)
    found = conversations.find(hash_prefixes("m", say("hello", "good day", "how are you")))
    assert found is not None and found[0] == ONE and found[1] == hash_prefixes("m", say("hello"))[0][1]
    conversations.note(hash_prefixes("m", say("hello", "good day", "how are you")), TWO)
    assert conversations.find(hash_prefixes("m", say("hello", "good day", "how are you", "well", "so"))) is not None
    longest = conversations.find(hash_prefixes("m", say("hello", "good day", "how are you", "well", "so")))
    assert longest is not None and longest[0] == TWO
    other = conversations.find(hash_prefixes("m", say("hello", "go away", "why")))
    assert other is not None and other[0] == ONE, "another branch begins with the first turn"


def test_another_model_or_beginning_or_salt_finds_nothing() -> None:
    conversations = Conversations(random.Random(0))
    conversations.note(hash_prefixes("m", say("hello", "good day", "how are you")), ONE)
    assert conversations.find(hash_prefixes("n", say("hello", "good day", "how are you"))) is None
    assert conversations.find(hash_prefixes("m", say("hello", "good day"))) is None
    assert conversations.find(hash_prefixes("m", say("hullo", "good day", "how are you"))) is None
    assert conversations._nodes.keys().isdisjoint(digest for digest, _ in hash_prefixes("m", say("hello")))
    assert conversations.find(()) is None


def test_one_system_prompt_does_not_tie_conversations_together() -> None:
    conversations, system = Conversations(random.Random(0)), [{"role": "system", "content": "be kind"}]
    conversations.note(hash_prefixes("m", [*system, *say("one")]), ONE)
    assert conversations.find(hash_prefixes("m", [*system, *say("two")])) is None


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), max_size=5))
def test_the_order_of_keys_does_not_matter(messages: list[dict[str, str]]) -> None:
    turned = [dict(reversed(list(message.items()))) for message in messages]
    assert hash_prefixes("m", messages) == hash_prefixes("m", turned)


def test_what_is_no_conversation_has_no_prefixes_and_long_ones_have_their_last() -> None:
    assert hash_prefixes("m", None) == hash_prefixes("m", "text") == hash_prefixes("m", []) == ()
    assert hash_prefixes("\ud800", ["\ud800", 5, None])
    long = hash_prefixes("m", say(*map(str, range(200))))
    assert len(long) == MAX_PREFIXES and long[-2:] == hash_prefixes("m", say(*map(str, range(200))))[-2:]


def test_memory_is_bounded() -> None:
    conversations = Conversations(random.Random(0))
    for number in range(MAX_CONVERSATIONS + 1):
        conversations.note(((number.to_bytes(16), 1),), ONE)
    assert len(conversations) == MAX_CONVERSATIONS
    conversations.note((), ONE)
    assert len(conversations) == MAX_CONVERSATIONS
