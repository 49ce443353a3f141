"""Transcripts: canonical bytes and bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.codec import pack
from chain.exceptions import CodecError
from serving.quality.same_model.transcript import (
    MAX_SURPRISAL,
    MAX_TOKENS,
    MAX_TRANSCRIPT_BYTES,
    TopToken,
    Transcript,
    TranscriptToken,
    decode_transcript,
    encode_transcript,
    to_surprisal,
)

LARGEST = TranscriptToken(2**32 - 1, tuple(TopToken(2**32 - 1 - number, MAX_SURPRISAL) for number in range(5)))
TOKENS = st.builds(
    lambda token, ids, surprisals: TranscriptToken(token, tuple(map(TopToken, ids, surprisals))),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5, unique=True),
    st.lists(st.integers(0, MAX_SURPRISAL), min_size=5, max_size=5),
)


@given(st.lists(TOKENS, min_size=1, max_size=5))
def test_a_transcript_is_read_back_from_its_bytes(tokens: list[TranscriptToken]) -> None:
    transcript = Transcript(tuple(tokens))
    assert decode_transcript(transcript.encode()) == transcript
    assert encode_transcript(transcript) == transcript.encode()


def test_the_longest_transcript_fits_its_bound() -> None:
    transcript = Transcript((LARGEST,) * MAX_TOKENS)
    raw = transcript.encode()
    assert 0.9 * MAX_TRANSCRIPT_BYTES < len(raw) <= MAX_TRANSCRIPT_BYTES
    assert decode_transcript(raw) == transcript
    with pytest.raises(CodecError):
        Transcript((LARGEST,) * (MAX_TOKENS + 1)).encode()


def test_an_empty_one_one_with_too_few_listed_and_one_that_lists_a_token_twice_are_refused() -> None:
    twice = [[1, [[1, 0], [1, 0], [2, 0], [3, 0], [4, 0]]]]
    for wire in ([[]], [[[1, [[1, 0]]]]], [twice]):
        with pytest.raises(CodecError):
            decode_transcript(pack(wire))


def test_surprisals_are_micro_nats_within_bounds() -> None:
    assert to_surprisal(-0.25889989733695984) == 258_900
    assert to_surprisal(0.0) == 0 and to_surprisal(1e-7) == 0
    assert to_surprisal(-9999.0) == to_surprisal(-math.inf) == MAX_SURPRISAL
    for wrong in (math.nan, 0.5, math.inf):
        with pytest.raises(ValueError, match="log-probability"):
            to_surprisal(wrong)
    assert TopToken(1, 258_900).logprob == pytest.approx(-0.2589)
