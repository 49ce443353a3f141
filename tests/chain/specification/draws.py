"""Sections 9.3 to 9.6: leaders, serving tables, executors, who takes part in a duel."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chain.specification.notation import Record, h, number, u32, u64

MAX_STAKED, MAX_NEWCOMERS = 4_096, 256


def draw(tickets: dict[bytes, int], digest: bytes) -> bytes:
    """The key that a hash draws, each with its tickets, in order."""
    ticket, total = number(digest) % sum(tickets.values()), 0
    for key, count in tickets.items():
        total += count
        if total > ticket:
            return key
    raise AssertionError


def compute_leader(members: list[Record], source: bytes, view: int) -> bytes:
    """The leader of a view of an epoch with this committee and source."""
    return draw({each["public_key"]: each["stake"] for each in members}, h("leader", source, u64(view)))


def compute_serving_table(
    accounts: dict[bytes, Record], beacon: bytes, parameters: Record, results: dict[bytes, bytes]
) -> Record:
    """The ``ServingTable`` of these accounts, some of which have results in their ``ExecutorRating``."""
    least = max(1, parameters["min_service_bond"])
    serving = {key: account for key, account in accounts.items() if account["models"] or account["judge"]}
    staked = [key for key, account in serving.items() if account["bonded"] >= least]
    newcomers = [key for key, account in serving.items() if account["bonded"] < least and account["models"]]
    staked.sort(key=lambda key: (-serving[key]["bonded"], key))
    newcomers.sort(key=lambda key: h("newcomer", beacon, key))
    stakes = {key: serving[key]["bonded"] for key in staked[:MAX_STAKED]}
    if parameters["newcomer_share"]:
        stakes |= dict.fromkeys(newcomers[:MAX_NEWCOMERS], 0)
    entries = [
        {
            "public_key": key, "stake": stakes[key], "models": serving[key]["models"], "judge": serving[key]["judge"],
            "exposure": compute_exposure(results.get(key, b""), parameters) if stakes[key] else 1_000_000,
            "identities": serving[key]["identities"],
        }
        for key in sorted(stakes)
    ]  # fmt: skip
    least = parameters["duels"]["min_judge_share"] if parameters["duels"]["rate"] else 0
    return {"entries": entries, "newcomer_share": parameters["newcomer_share"], "min_judge_share": least}


def compute_exposure(results: bytes, parameters: Record) -> int:
    """The share of its stake by which an account with these results is drawn, in millionths."""
    won = [result for result in results[8::9] if result != 3]
    points, exponent = max(40, sum(won) + 200 - len(results) // 9), parameters["duels"]["exposure_exponent"]
    if parameters["duels"]["rate"] == 0 or points >= 200:
        return 1_000_000
    return int(1_000_000 * points**exponent // (400 - points) ** exponent)


def order_executors(table: Record, source: bytes, payer: bytes, seq: int, model: str) -> Iterator[bytes]:
    """The executors of a request, as the lottery draws one after another."""
    seed = h("lottery", source, payer, u64(seq))
    serving = [each for each in table["entries"] if model in each["models"] and each["public_key"] != payer]
    staked = {
        each["public_key"]: max(1, each["stake"] * each["exposure"] // 1_000_000) for each in serving if each["stake"]
    }
    newcomers = {each["public_key"]: 1 for each in serving if not each["stake"]}
    for index in range(len(serving)):
        is_lucky = number(h("newcomer share", seed, u32(index))) % 1000 < table["newcomer_share"]
        urn = newcomers if not staked or (newcomers and is_lucky) else staked
        key = draw(urn, h("executor", seed, u32(index)))
        del urn[key]
        yield key


def draw_staked(entries: list[Record], domain: str, seed: bytes, excluded: set[bytes]) -> Iterator[bytes]:
    """Entries of a serving table with a stake, as they are drawn one after another (section 9.6)."""
    urn = {
        each["public_key"]: each["stake"] for each in entries if each["stake"] and each["public_key"] not in excluded
    }
    for index in range(len(urn)):
        key = draw(urn, h(domain, seed, u32(index)))
        del urn[key]
        yield key


def draw_judges(table: Record, seed: bytes, excluded: set[bytes]) -> Iterator[tuple[bytes, Record]]:
    """The judges of a duel with what they declared, as they are drawn one after another (section 9.6)."""
    judging = list_judges(table)
    judges = {each["public_key"]: each["judge"] for each in judging}
    for key in draw_staked(judging, "judge", seed, excluded):
        yield key, judges[key]


def list_judges(table: Record) -> list[Record]:
    """The entries that judge with a stake, of kinds that have enough of it together."""
    judging = [each for each in table["entries"] if each["judge"] and each["stake"]]
    total = sum(each["stake"] for each in judging)
    kind = {each["public_key"]: sum(e["stake"] for e in judging if e["judge"] == each["judge"]) for each in judging}
    return [each for each in judging if kind[each["public_key"]] * 1_000 >= table["min_judge_share"] * total]
