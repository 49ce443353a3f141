"""Measures what checkers of real models come to, for the strategies of :mod:`tests.adversarial.duels.substitutes`.

One llama.cpp server holds the declared weights, those of the embedded model, and scores. Others answer: with the same
weights, with these rounded to Q4_0, and without four or eight of thirty layers, which leaves near nonsense and rubbish.
Half of the answers are drawn at temperature 0 and half at 1. Each transcript of other weights is scored as it is, and
as it would be forged:

- ``supplied``: the declared weights say what they find likely where the other model has written;
- ``invented``: the chosen token is said to have nine tenths, and four others the rest.

``scored`` are shortfall, in standard deviations, and distance by the declared weights. Two servers with other threads,
slots and batches came to the same within 10⁻⁶ on one processor, so that the numbers stand for all honest checkers.
``told`` are those of a checker that scores nothing, and believes the transcript.

``python -m tests.adversarial.duels.measure_checks`` writes ``tests/support/strategies/measured_checks.json``, in five
minutes of a core.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack

import trio

from benchmarks.quality.model_variants import get_variant
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.quality.same_model.checking import make_request, record_answer
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.scoring import draw_positions
from serving.quality.same_model.statistics import Distribution, measure
from serving.quality.same_model.transcript import TOP_TOKENS, TopToken, Transcript, TranscriptToken, to_surprisal
from tests.support.strategies.check_market import MEASURED

DECLARED = "q4_1"
WRITERS = {"honest": DECLARED, "rounded": "q4_0", "26 layers": "26 layers", "22 layers": "22 layers"}
"""The weights that answer, by the name of the case."""
ANSWERS = 24
"""Answers of each writer."""
TOKENS = 32
"""Longest answer."""
SEED = 10
INVENTED_LOGPROBS = (-0.105, -3.69, -3.69, -3.69, -3.69)
"""Nine tenths, and four times a fortieth."""

Row = dict[str, float | tuple[float, float]]


def supply(transcript: Transcript, scores: dict[int, Distribution]) -> Transcript:
    """The transcript with the likeliest tokens of other weights, where these have scored it."""
    forged = list(transcript.tokens)
    for position, scored in scores.items():
        likeliest = sorted(scored.items(), key=lambda each: -each[1])[:TOP_TOKENS]
        top = tuple(TopToken(token, to_surprisal(logprob)) for token, logprob in likeliest)
        forged[position] = TranscriptToken(forged[position].id, top)
    return Transcript(tuple(forged))


def invent(transcript: Transcript) -> Transcript:
    """The transcript with made-up numbers."""
    forged = []
    for token in transcript.tokens:
        others = [each.id for each in token.top if each.id != token.id][: TOP_TOKENS - 1]
        listed = zip((token.id, *others), INVENTED_LOGPROBS, strict=True)
        forged.append(TranscriptToken(token.id, tuple(TopToken(each, to_surprisal(value)) for each, value in listed)))
    return Transcript(tuple(forged))


async def check_answer(writer: EmbeddedBackend, scorer: LlamaCppScorer, number: int, prompt: str) -> list[Row]:
    """The numbers of one answer: as it is, supplied and invented."""
    temperature = float(number % 2)
    request = make_request(MODEL, prompt, max_tokens=TOKENS, temperature=temperature, seed=number)
    written = await record_answer(writer, request)
    positions = draw_positions(b"%d" % number, len(written.tokens))
    scores = await scorer.score(request, written.ids, positions)
    rows = []
    for transcript in (written, supply(written, scores), invent(written)):
        row: Row = {"temperature": temperature}
        told = {place: {each.id: each.logprob for each in transcript.tokens[place].top} for place in positions}
        for name, said in (("scored", scores), ("told", told)):
            found = measure(transcript, said, temperature)
            row[name] = (round(found.shortfall, 3), round(found.distance, 6))
        rows.append(row)
    return rows


async def measure_all(answers: int) -> dict[str, list[Row]]:
    """The rows of each case."""
    cases: dict[str, list[Row]] = {}
    async with AsyncExitStack() as stack:

        async def start(weights: str) -> EmbeddedBackend:
            path = await trio.to_thread.run_sync(get_variant, weights)
            server = EmbeddedBackend(RealRuntime(), weights=path, parallel=1, threads=1)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            nursery.start_soon(server.run)
            await server.wait_alive()
            return server

        scorer = LlamaCppScorer(await start(DECLARED), MODEL)
        for case, weights in WRITERS.items():
            writer = await start(weights)
            names = (case,) if weights == DECLARED else (case, f"{case}, supplied", f"{case}, invented")
            for number, prompt in enumerate(draw_prompts(SEED, answers)):
                for name, row in zip(names, await check_answer(writer, scorer, number, prompt), strict=False):
                    cases.setdefault(name, []).append(row)
                print(f"{case}: {number + 1} of {answers}", file=sys.stderr, flush=True)
    return cases


def main() -> None:
    """Command line: how many answers of each writer."""
    cases = trio.run(measure_all, int(sys.argv[1]) if sys.argv[1:] else ANSWERS)
    lines = [f'  "{case}": [\n    ' + ",\n    ".join(map(json.dumps, rows)) + "\n  ]" for case, rows in cases.items()]
    MEASURED.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
