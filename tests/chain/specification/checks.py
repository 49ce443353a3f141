"""Section 7.8: checks of the model, from the draw to the settlement."""

from __future__ import annotations

from typing import Any

from tests.chain.specification.draws import draw_staked
from tests.chain.specification.ledger import Ledger, get_free_bond, need
from tests.chain.specification.notation import Record, encode, h, u64

COMMIT, REVEAL = 11, 12
MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE, ABSTAINED = 1, 2, 3, 4
ZERO = 1_000_000
"""The ``shortfall`` of a report that means none."""
UNIT, MILLION = 10**12, 1_000_000
FAILURES_OF_A_CHEAT, FALSE_ALARM = 500_000, 50
"""In a million: the checks that a cheat fails, and the honest accounts that either statistic may find guilty."""
NO_CHECKS: Record = {"checks": 0, "failures": 0, "e_value": 0}
NO_HISTORY: Record = {"shortfall": NO_CHECKS, "distance": NO_CHECKS}
NO_QUEUE: Record = {"first": 0, "end": 0}


def get_checks(ledger: Ledger) -> Record:
    """The parameters of checks."""
    checks: Record = ledger.parameters["checks"]
    return checks


def share(ledger: Ledger, check: Record, group: str, name: str) -> int:
    return int(check["amount"] * ledger.parameters[group][name] // 1_000)


def find_identity(account: Record, model: str) -> bytes | None:
    return next((each["digest"] for each in account["identities"] if each["model"] == model), None)


def pay_levy(ledger: Ledger, key: bytes, model: str, amount: int, rate: int) -> int:
    """The levy for checks, out of what was just paid. Returns it."""
    account = ledger.account(key)
    if not get_checks(ledger)["checkers"] or find_identity(account, model) is None:
        return 0
    levy = amount * get_checks(ledger)["levy"] * rate // 1_000_000
    account["available"] -= levy
    ledger.fill_treasury(levy)
    return int(levy)


def open_check(ledger: Ledger, table: Record, capture: Record) -> None:
    """The check of a capture that was drawn, if there can be one."""
    size, totals = get_checks(ledger)["checkers"], ledger.entries[b"s"]
    if capture["identity"] is None or not size:
        return
    seed = h("check", ledger.entries[b"b"]["value"], capture["hold"])
    identity = {"model": capture["model"], "digest": capture["identity"]}
    declaring = [each for each in table["entries"] if identity in each["identities"]]
    drawn = draw_staked(declaring, "checker", seed, {capture["payer"], capture["payee"]})
    found = [key for key in drawn if identity in ledger.account(key)["identities"]][:size]
    if len(found) % 2 == 0:
        found = found[:-1]
    cost = len(found) * share(ledger, capture, "checks", "checker")
    if not found or cost > totals["treasury"] - totals["reserved"]:
        return
    executor = ledger.account(capture["payee"])
    locked = min(share(ledger, capture, "duels", "lock"), get_free_bond(executor))
    executor["locked"] += locked
    totals["reserved"] += cost
    ledger.entries[b"i" + capture["hold"]] = {
        "payer": capture["payer"], "executor": capture["payee"], "model": capture["model"],
        "identity": capture["identity"], "amount": capture["amount"], "request_digest": capture["request_digest"],
        "response_digest": capture["response_digest"], "transcript_digest": capture["transcript_digest"],
        "seed": seed, "stage": 0, "ends_at": 0,
        "seats": [{"public_key": key, "commitment": None, "report": None} for key in found],
        "locked": locked, "reserved": cost,
    }  # fmt: skip
    enter(ledger, capture["hold"], COMMIT)


def enter(ledger: Ledger, hold_id: bytes, stage: int) -> None:
    """A check enters a stage."""
    check = ledger.entries[b"i" + hold_id]
    length = get_checks(ledger)["commit_ms" if stage == COMMIT else "reveal_ms"]
    check |= {"stage": stage, "ends_at": ledger.now + length}
    queue = ledger.get(b"y" + bytes([stage]), NO_QUEUE)
    ledger.entries[b"x" + bytes([stage]) + u64(queue["end"])] = {"hold": hold_id, "ends_at": check["ends_at"]}
    queue["end"] += 1


def find_seat(ledger: Ledger, operation: Record, signer: bytes, stage: int) -> Record:
    check = ledger.entries.get(b"i" + operation["hold"])
    need(check is not None and check["stage"] == stage)
    seats: list[Record] = [seat for seat in (check or {})["seats"] if seat["public_key"] == signer]
    need(seats)
    return seats[0]


def commit(ledger: Ledger, operation: Record, signer: bytes) -> None:
    seat = find_seat(ledger, operation, signer, COMMIT)
    need(seat["commitment"] is None)
    seat["commitment"] = operation["commitment"]


def reveal(ledger: Ledger, operation: Record, signer: bytes) -> None:
    seat = find_seat(ledger, operation, signer, REVEAL)
    need(seat["commitment"] is not None and seat["report"] is None)
    opened = h("check report", operation["hold"], signer, operation["salt"], encode(operation["report"]))
    need(opened == seat["commitment"])
    has_transcript = ledger.entries[b"i" + operation["hold"]]["transcript_digest"] is not None
    need(has_transcript or operation["report"]["kind"] != MEASURED)
    seat["report"] = dict(operation["report"])


def end_stages(ledger: Ledger) -> None:
    """The part of step 7 of a block that is about checks."""
    checks = {key[1:]: record for key, record in ledger.entries.items() if key[:1] == b"i"}
    for hold_id in sorted(key for key, check in checks.items() if is_complete(check)):
        end_stage(ledger, hold_id)
    for stage in (COMMIT, REVEAL):
        for _ in range(ledger.parameters["duels"]["max_deadlines"]):
            queue = ledger.entries.get(b"y" + bytes([stage]), NO_QUEUE)
            key = b"x" + bytes([stage]) + u64(queue["first"])
            if queue["first"] == queue["end"] or ledger.entries[key]["ends_at"] > ledger.now:
                break
            hold_id = ledger.entries.pop(key)["hold"]
            queue["first"] += 1
            if queue["first"] == queue["end"]:
                del ledger.entries[b"y" + bytes([stage])]
            if ledger.entries.get(b"i" + hold_id, {"stage": None})["stage"] == stage:
                end_stage(ledger, hold_id)


def is_complete(check: Record) -> bool:
    seats = check["seats"]
    if check["stage"] == COMMIT:
        return all(seat["commitment"] is not None for seat in seats)
    return all(seat["report"] is not None for seat in seats if seat["commitment"] is not None)


def end_stage(ledger: Ledger, hold_id: bytes) -> None:
    check = ledger.entries[b"i" + hold_id]
    if check["stage"] == COMMIT and any(seat["commitment"] is not None for seat in check["seats"]):
        enter(ledger, hold_id, REVEAL)
    else:
        settle(ledger, hold_id)


def settle(ledger: Ledger, hold_id: bytes) -> None:
    """What the reports say, what each checker gets or pays, and a substitution."""
    check: Record = ledger.entries.pop(b"i" + hold_id)
    executor = ledger.account(check["executor"])
    executor["locked"] -= check["locked"]
    ledger.entries[b"s"]["reserved"] -= check["reserved"]
    agreed, differed, failures = find(get_checks(ledger), check)
    is_substitution = failures is not None and note(ledger, check, failures)
    if is_substitution:
        del ledger.entries[b"f" + check["executor"] + check["identity"]]
        dropped = [each for each in executor["identities"] if each["digest"] == check["identity"]]
        executor["identities"] = [each for each in executor["identities"] if each not in dropped]
        freed = ledger.price_room(sum(448 + 2 * len(each["model"]) for each in dropped))
        executor["deposit"] -= freed
        executor["available"] += freed
        rating = ledger.get(b"e" + check["executor"], {"duels": 0, "results": b"", "probation": 0})
        results = rating["results"]
        kept = [results[start : start + 8] + bytes([results[start + 8] % 3]) for start in range(0, len(results), 9)]
        rating |= {"duels": 0, "results": b"".join(kept)}
    for seat in check["seats"]:
        key = seat["public_key"]
        if seat["report"] is None or key in differed:
            ledger.collect(key, share(ledger, check, "duels", "silence"), available="last")
        elif key in agreed:
            amount = share(ledger, check, "checks", "checker")
            ledger.fill_treasury(-amount)
            ledger.account(key)["available"] += amount
            ledger.bond_income(key, amount)
    if is_substitution:
        ledger.collect(check["executor"], share(ledger, check, "duels", "fraud"), available="last")


def find(checks: Record, check: Record) -> tuple[list[bytes], list[bytes], tuple[bool, bool] | None]:
    """The checkers that agree, those that measured and do not, and what failed if the check counts."""
    reports = {seat["public_key"]: seat["report"] for seat in check["seats"] if seat["report"] is not None}
    said = [report["kind"] for report in reports.values() if report["kind"] != ABSTAINED]
    quorum = checks["checkers"] // 2 + 1
    if 2 * said.count(NO_TRANSCRIPT) > len(said):
        return [], [], (True, True) if said.count(NO_TRANSCRIPT) >= quorum else None
    if 2 * said.count(MEASURED) <= len(said):
        return [], [], None
    measured = {key: report for key, report in reports.items() if report["kind"] == MEASURED}

    def agree(first: Record, second: Record) -> bool:
        names = ("shortfall", "distance")
        return all(abs(first[name] - second[name]) <= checks[f"{name}_tolerance"] for name in names)

    agreed = [
        key
        for key, report in measured.items()
        if len([each for each in measured.values() if agree(each, report)]) * 2 > len(measured)
    ]
    if not agreed:
        return [], [], None
    middle = (len(agreed) - 1) // 2
    shortfall, distance = (sorted(measured[key][name] for key in agreed)[middle] for name in ("shortfall", "distance"))
    failures = (shortfall - ZERO > checks["max_shortfall"], distance > checks["max_distance"])
    return agreed, [key for key in measured if key not in agreed], failures if len(agreed) >= quorum else None


def note(ledger: Ledger, check: Record, failures: tuple[bool, bool]) -> bool:
    """Add a check to the history of its executor. Whether that is a substitution."""
    history = ledger.get(b"f" + check["executor"] + check["identity"], NO_HISTORY)
    is_proof = False
    for name, is_failed in zip(("shortfall", "distance"), failures, strict=True):
        history[name], is_crossed = bet(history[name], is_failed, get_checks(ledger)[f"honest_{name}_ppm"])
        is_proof |= is_crossed
    return is_proof


def bet(history: Record, is_failed: bool, honest: int) -> tuple[Record, bool]:
    """The history of one statistic after one more check, and whether its e-value is at the threshold."""
    checks, threshold = history["checks"] + 1, UNIT * MILLION // FALSE_ALARM
    e_value = history["e_value"] + UNIT // (checks * (checks + 1))
    odds = (FAILURES_OF_A_CHEAT, honest) if is_failed else (MILLION - FAILURES_OF_A_CHEAT, MILLION - honest)
    e_value = min(threshold, e_value * odds[0] // odds[1])
    after: dict[str, Any] = {"checks": checks, "failures": history["failures"] + is_failed, "e_value": e_value}
    return after, e_value == threshold
