"""Section 7.7: duels, from the draw to the settlement."""

from __future__ import annotations

from collections.abc import Callable

from tests.chain.specification.checks import find_identity, open_check, pay_levy
from tests.chain.specification.draws import draw_judges, draw_staked, list_judges
from tests.chain.specification.ledger import Ledger, get_free_bond, need
from tests.chain.specification.notation import Record, encode, h, number, u64

A, B, BOTH = 1, 2, 3
ANSWER, COMMIT, REPEAT, REVEAL = 1, 2, 3, 4
ABSTAIN = 4
MAX_DIFFERENCES = 5
MAX_CHALLENGERS, MIN_PANEL, SECOND_PANEL, CONFIRMATIONS = 3, 3, 5, 4
NO_RATING: Record = {"duels": 0, "results": b"", "probation": 0}
NO_QUEUE: Record = {"first": 0, "end": 0}
NO_RECORD: Record = {"repeats": b"", "benched_until": 0}


def get_duels(ledger: Ledger) -> Record:
    """The parameters of duels."""
    duels: Record = ledger.parameters["duels"]
    return duels


def get_current_table(ledger: Ledger) -> Record:
    """That of the serving period which the block belongs to."""
    begun = [period["first_round"] for period in ledger.entries[b"d"]["periods"] if period["source"] is not None]
    table: Record = ledger.entries[b"t" + u64(begun[-1])]
    return table


def share(ledger: Ledger, duel: Record, name: str) -> int:
    duels = get_duels(ledger)
    amount = weigh(ledger, duel) if name == "fraud" else duel["amount"]
    return int(amount * duels[name] // 1_000)


def weigh(ledger: Ledger, duel: Record) -> int:
    """The weight of a fraud."""
    return int(duel["amount"] * get_duels(ledger)["rate"] // duel["rate"])


def note_paid(ledger: Ledger, hold_id: bytes, entry: Record, delivery: Record, has_receipt: bool) -> int:
    """What follows from a capture that was paid: the levies, and that it waits for its draw. Returns what is left."""
    duels, amount = get_duels(ledger), int(delivery["amount"])
    if not duels["rate"]:
        return amount
    levy = amount * duels["levy"] * get_rate(ledger, entry["payee"], amount) // 1_000_000
    ledger.account(entry["payee"])["available"] -= levy
    ledger.fill_treasury(levy)
    rate = get_rate(ledger, entry["payee"], amount)
    income = amount - levy - pay_levy(ledger, entry["payee"], entry["model"], amount, rate)
    is_exempt = delivery["finish_reason"] == "cancelled" or delivery["usage"]["completion_bytes"] == 0
    if has_receipt and is_exempt:
        return int(income)
    capture = {"hold": hold_id, "payer": entry["payer"], "payee": entry["payee"], "model": entry["model"]}
    capture |= {"amount": amount, "request_digest": entry["request_digest"]}
    capture |= {name: delivery[name] for name in ("response_digest", "transcript_digest")}
    capture["identity"] = find_identity(ledger.account(entry["payee"]), entry["model"])
    ledger.get(b"k" + u64(ledger.height), {"captures": []})["captures"].append(capture)
    return int(income)


def get_rating(ledger: Ledger, key: bytes) -> Record:
    """The ``ExecutorRating`` of an account, not to be changed."""
    return ledger.entries.get(b"e" + key, NO_RATING)


def get_rate(ledger: Ledger, key: bytes, amount: int) -> int:
    """The rate of an account for captures of this amount."""
    duels = get_duels(ledger)
    rating = get_rating(ledger, key)
    is_on_probation = rating["duels"] < duels["probation_duels"] or rating["probation"] >= amount
    return int(max(duels["rate"], duels["probation_rate"]) if is_on_probation else duels["rate"])


def draw_duels(ledger: Ledger) -> None:
    """Step 4 of a block."""
    if not get_duels(ledger)["rate"]:
        return
    entries, height, beacon = ledger.entries, ledger.height, ledger.entries[b"b"]["value"]
    paid = entries.pop(b"k" + u64(height - 8), None) if height > 8 else None
    for capture in paid["captures"] if paid else []:
        delay = number(h("duel delay", beacon, capture["hold"])) % 32
        key = b"n" + u64(height + delay) + bytes([delay])
        ledger.get(key, {"captures": []})["captures"].append(capture)
    drawn = []
    for delay in range(32):
        due = entries.pop(b"n" + u64(height) + bytes([delay]), {"captures": []})
        for capture in due["captures"]:
            rate = get_rate(ledger, capture["payee"], capture["amount"])
            if number(h("duel", beacon, capture["hold"])) % 1_000 < rate:
                drawn.append(capture)
    for capture in drawn:
        open_duel(ledger, capture)
    for capture in drawn:
        open_check(ledger, get_current_table(ledger), capture)


def open_duel(ledger: Ledger, capture: Record) -> None:
    duels, totals = get_duels(ledger), ledger.entries[b"s"]
    seed = h("duel", ledger.entries[b"b"]["value"], capture["hold"])
    parties = {capture["payer"], capture["payee"]}
    duel = {name: capture[name] for name in ("payer", "model", "amount", "request_digest", "response_digest")}
    duel["executor"] = capture["payee"]
    found = draw_challenger(ledger, capture["model"], seed, parties)
    for challenger in [found, None] if found else [None]:
        seats = draw_seats(
            ledger, duels["judges"], seed, parties | ({challenger} if challenger else set()), challenger is not None
        )
        cost = len(seats) * share(ledger, duel, "judge")
        if challenger:
            cost += share(ledger, duel, "challenger") + share(ledger, duel, "executor_won")
        if seats and cost <= totals["treasury"] - totals["reserved"]:
            break
    else:
        return
    executor = ledger.account(capture["payee"])
    locked = min(share(ledger, duel, "lock"), get_free_bond(executor))
    executor["locked"] += locked
    totals["reserved"] += cost
    ledger.entries[b"u" + capture["hold"]] = {
        "payer": capture["payer"], "executor": capture["payee"], "model": capture["model"],
        "amount": capture["amount"], "rate": get_rate(ledger, capture["payee"], capture["amount"]),
        "request_digest": capture["request_digest"],
        "response_digest": capture["response_digest"], "stage": 0, "ends_at": 0, "challenger": challenger,
        "answer_digest": None, "silent": [], "seats": seats, "locked": locked, "reserved": cost, "is_accused": False,
        "repeats": [],
    }  # fmt: skip
    assert duels["judges"] >= len(seats)
    enter(ledger, capture["hold"], ANSWER if challenger else COMMIT)


def draw_challenger(ledger: Ledger, model: str, seed: bytes, excluded: set[bytes]) -> bytes | None:
    """Section 9.6."""
    serving = [each for each in get_current_table(ledger)["entries"] if model in each["models"]]
    for key in draw_staked(serving, "challenger", seed, excluded):
        if model in ledger.account(key)["models"]:
            return key
    return None


def draw_seats(ledger: Ledger, size: int, seed: bytes, excluded: set[bytes], has_challenger: bool) -> list[Record]:
    """The judges of a duel (section 9.6)."""
    found = [
        (key, judge)
        for key, judge in draw_judges(get_current_table(ledger), seed, excluded)
        if ledger.account(key)["judge"] == judge
    ][:size]
    if len(found) % 2 == 0:
        found = found[:-1]
    return [
        {
            "public_key": key, "judge": dict(judge),
            "is_reversed": has_challenger and number(h("judge order", seed, key)) % 2 == 1,
            "commitment": None, "ballot": None, "repeats": None,
        }
        for key, judge in found
    ]  # fmt: skip


def draw_repeats(ledger: Ledger, hold_id: bytes) -> None:
    """The votes of a duel that are repeated, and who repeats them (section 9.6)."""
    duel, totals = ledger.entries[b"u" + hold_id], ledger.entries[b"s"]
    seed, pay = h("duel", ledger.entries[b"b"]["value"], hold_id), share(ledger, duel, "judge")
    for seat in duel["seats"]:
        entropy = h("repeat", seed, seat["public_key"])
        if seat["commitment"] is None or number(entropy) % 1_000 >= get_duels(ledger)["repeat_rate"]:
            continue
        table = get_current_table(ledger)
        equal = [each for each in list_judges(table) if each["judge"] == seat["judge"]]
        drawn = draw_staked(equal, "repeater", entropy, list_parties(duel))
        found = [key for key in drawn if ledger.account(key)["judge"] == seat["judge"]]
        if found and pay <= totals["treasury"] - totals["reserved"]:
            totals["reserved"] += pay
            duel["reserved"] += pay
            duel["repeats"].append(seat | {"public_key": found[0], "commitment": None, "repeats": seat["public_key"]})


def list_parties(duel: Record) -> set[bytes]:
    """Who has, or had, a part in a duel."""
    parties = {duel["payer"], duel["executor"], *duel["silent"]} | ({duel["challenger"]} - {None})
    return parties | {seat["public_key"] for seat in (*duel["seats"], *duel["repeats"])}


def enter(ledger: Ledger, hold_id: bytes, stage: int) -> None:
    """A duel enters a stage."""
    duel, name = ledger.entries[b"u" + hold_id], {1: "answer_ms", 2: "commit_ms", 3: "commit_ms", 4: "reveal_ms"}[stage]
    duel |= {"stage": stage, "ends_at": ledger.now + get_duels(ledger)[name]}
    queue = ledger.get(b"y" + bytes([stage]), NO_QUEUE)
    ledger.entries[b"x" + bytes([stage]) + u64(queue["end"])] = {"hold": hold_id, "ends_at": duel["ends_at"]}
    queue["end"] += 1


def find_duel(ledger: Ledger, operation: Record, *stages: int) -> Record:
    need(b"u" + operation["hold"] in ledger.entries)
    duel: Record = ledger.entries[b"u" + operation["hold"]]
    need(duel["stage"] in stages)
    return duel


def find_seat(duel: Record, signer: bytes) -> Record:
    seats: list[Record] = [seat for seat in duel["seats"] + duel["repeats"] if seat["public_key"] == signer]
    need(seats)
    return seats[0]


def answer(ledger: Ledger, operation: Record, signer: bytes) -> None:
    duel = find_duel(ledger, operation, ANSWER)
    need(signer == duel["challenger"] and duel["answer_digest"] is None)
    duel["answer_digest"] = operation["answer_digest"]


def commit(ledger: Ledger, operation: Record, signer: bytes) -> None:
    duel = find_duel(ledger, operation, COMMIT, REPEAT)
    seat = find_seat(duel, signer)
    need(seat["commitment"] is None and (seat["repeats"] is not None) == (duel["stage"] == REPEAT))
    seat["commitment"] = operation["commitment"]


def reveal(ledger: Ledger, operation: Record, signer: bytes) -> None:
    seat = find_seat(find_duel(ledger, operation, REVEAL), signer)
    need(seat["commitment"] is not None and seat["ballot"] is None)
    opened = h("ballot", operation["hold"], signer, operation["salt"], encode(operation["ballot"]))
    need(opened == seat["commitment"])
    seat["ballot"] = dict(operation["ballot"])


def end_stages(ledger: Ledger) -> None:
    """Step 7 of a block."""
    duels = {key[1:]: record for key, record in ledger.entries.items() if key[:1] == b"u"}
    for hold_id in sorted(key for key, duel in duels.items() if is_complete(duel)):
        if duels[hold_id]["stage"] == ANSWER:
            enter(ledger, hold_id, COMMIT)
        elif duels[hold_id]["stage"] == REVEAL:
            settle(ledger, hold_id)
        else:
            go_on(ledger, hold_id)
    for stage in (ANSWER, COMMIT, REPEAT, REVEAL):
        queue_key = b"y" + bytes([stage])
        end = ledger.entries.get(queue_key, NO_QUEUE)["end"]
        for _ in range(get_duels(ledger)["max_deadlines"]):
            queue = ledger.entries.get(queue_key, NO_QUEUE)
            key = b"x" + bytes([stage]) + u64(queue["first"])
            if queue["first"] >= end or queue == NO_QUEUE or ledger.entries[key]["ends_at"] > ledger.now:
                break
            deadline = ledger.entries.pop(key)
            queue["first"] += 1
            if queue["first"] == queue["end"]:
                del ledger.entries[queue_key]
            duel = ledger.entries.get(b"u" + deadline["hold"])
            if duel is not None and (duel["stage"], duel["ends_at"]) == (stage, deadline["ends_at"]):
                run_out(ledger, deadline["hold"], duel)


def is_complete(duel: Record) -> bool:
    seats = duel["seats"]
    return {
        ANSWER: duel["answer_digest"] is not None,
        COMMIT: all(seat["commitment"] is not None for seat in seats),
        REPEAT: all(seat["commitment"] is not None for seat in duel["repeats"]),
        REVEAL: all(seat["ballot"] is not None for seat in seats + duel["repeats"] if seat["commitment"] is not None),
    }[duel["stage"]]


def go_on(ledger: Ledger, hold_id: bytes) -> None:
    """From the commitments to the repeated votes, or to the ballots."""
    duel = ledger.entries[b"u" + hold_id]
    if duel["stage"] == COMMIT:
        draw_repeats(ledger, hold_id)
    enter(ledger, hold_id, REPEAT if duel["stage"] == COMMIT and duel["repeats"] else REVEAL)


def run_out(ledger: Ledger, hold_id: bytes, duel: Record) -> None:
    """The stage of a duel has run out."""
    if duel["stage"] == REPEAT or (
        duel["stage"] == COMMIT and any(seat["commitment"] is not None for seat in duel["seats"])
    ):
        go_on(ledger, hold_id)
    elif duel["stage"] != ANSWER:
        settle(ledger, hold_id)
    else:
        silent = duel["challenger"]
        duel["silent"].append(silent)
        duel["challenger"] = None
        if len(duel["silent"]) == MAX_CHALLENGERS:
            close(ledger, hold_id)
            is_fraud = rate(ledger, duel, 3)
            ledger.collect(silent, share(ledger, duel, "silence"), available="last")
            ledger.collect(duel["executor"], share(ledger, duel, "void"), available="last")
            if is_fraud:
                ledger.collect(duel["executor"], share(ledger, duel, "fraud"), available="last")
            return
        ledger.collect(silent, share(ledger, duel, "silence"), available="last")
        seed = h("duel", ledger.entries[b"b"]["value"], hold_id)
        excluded = {duel["payer"], duel["executor"], *duel["silent"]} | {each["public_key"] for each in duel["seats"]}
        duel["challenger"] = draw_challenger(ledger, duel["model"], seed, excluded)
        if duel["challenger"] is None:
            for seat in duel["seats"]:
                seat["is_reversed"] = False
        enter(ledger, hold_id, ANSWER if duel["challenger"] else COMMIT)


def settle(ledger: Ledger, hold_id: bytes) -> None:
    """The verdict, what each of the parties gets or pays, and a second panel if most of the judges accuse."""
    duel: Record = ledger.entries[b"u" + hold_id]
    ballots = [
        (read(seat, duel["challenger"] is None), seat)
        for seat in duel["seats"]
        if seat["ballot"] is not None and seat["ballot"]["better"] != ABSTAIN
    ]

    def find_judges(test: Callable[[Record], bool]) -> list[bytes]:
        return [seat["public_key"] for ballot, seat in ballots if test(ballot)]

    def most(test: Callable[[Record], bool]) -> list[bytes]:
        judges = find_judges(test)
        return judges if 2 * len(judges) > len(ballots) else []

    if duel["is_accused"]:
        is_fraud = len(find_judges(accuses)) >= CONFIRMATIONS
        if is_fraud:
            note_fraud(ledger, duel["executor"], weigh(ledger, duel))
        close(ledger, hold_id)
        transact(ledger, duel, duel["executor"], "-fraud" if is_fraud else "")
        pay_judges(ledger, duel, "judge", find_judges(lambda ballot: True))
        settle_repeats(ledger, duel)
        return
    executor, challenger, pay, result = find_verdict(duel, most)
    if most(lambda ballot: "challenger" in ballot["unusable"] and "executor" not in ballot["unusable"]):
        challenger = challenger if challenger.startswith("-") else ""
    is_fraud = rate(ledger, duel, result)
    paid = [share(ledger, duel, each) for each in (executor, challenger) if each and not each.startswith("-")]
    earning = find_judges(lambda ballot: True) if pay == "quarter" else find_agreed(duel, most)
    paid += [compute_pay(ledger, duel, pay)] * len(earning) if pay else []
    paid += [share(ledger, duel, "judge") for seat in duel["repeats"] if is_vote(seat["ballot"])]
    panel = draw_second_panel(ledger, hold_id, duel) if most(accuses) and len(duel["seats"]) >= MIN_PANEL else []
    cost = SECOND_PANEL * share(ledger, duel, "judge")
    totals = ledger.entries[b"s"]
    is_continued = len(panel) == SECOND_PANEL
    is_continued &= totals["treasury"] - (totals["reserved"] - duel["reserved"]) >= cost + sum(paid)
    if not is_continued:
        close(ledger, hold_id)
    transact(ledger, duel, duel["executor"], executor)
    if duel["challenger"] is not None:
        transact(ledger, duel, duel["challenger"], challenger)
    pay_judges(ledger, duel, pay, earning)
    settle_repeats(ledger, duel)
    if is_fraud:
        transact(ledger, duel, duel["executor"], "-fraud")
    if is_continued:
        totals["reserved"] += cost - duel["reserved"]
        duel |= {"seats": panel, "repeats": [], "reserved": cost, "is_accused": True}
        enter(ledger, hold_id, COMMIT)


Most = Callable[[Callable[[Record], bool]], list[bytes]]


def list_cases(duel: Record) -> list[tuple[Callable[[Record], bool], str, str, str, int | None]]:
    """What most may say; what follows for executor, challenger and judges, and the executor's rating."""

    def missing(name: str) -> Callable[[Record], bool]:
        return lambda ballot: name in ballot["missing"]

    def says(better: str) -> Callable[[Record], bool]:
        return lambda ballot: ballot["better"] == better and not ballot["missing"]

    if duel["challenger"] is None:
        return [
            (missing("executor"), "-void", "", "", 3),
            (
                lambda ballot: "executor" not in ballot["missing"] and "executor" in ballot["unusable"],
                "", "", "judge", None,
            ),
            (lambda ballot: not {"executor"} & (ballot["missing"] | ballot["unusable"]), "", "", "judge", None),
        ]  # fmt: skip
    return [
        (missing("executor"), "-void", "challenger", "", 3),
        (missing("challenger"), "", "-silence", "", None),
        (says("executor"), "executor_won", "challenger_lost", "judge", 2),
        (says("challenger"), "-executor_lost", "challenger", "judge", 0),
        (says("same"), "", "", "quarter", 1),
    ]


def find_verdict(duel: Record, most: Most) -> tuple[str, str, str, int | None]:
    """What executor, challenger and judges get or pay, and what it counts for."""
    tie = ("", "challenger", "quarter", 1)
    return next((case[1:] for case in list_cases(duel) if most(case[0])), tie)


def find_agreed(duel: Record, most: Most) -> list[bytes]:
    """The judges that came to the verdict."""
    return next((most(case[0]) for case in list_cases(duel) if most(case[0])), [])


def accuses(ballot: Record) -> bool:
    unusable = ballot["unusable"]
    return "executor" in unusable and "executor" not in ballot["missing"] and "challenger" not in unusable


def draw_second_panel(ledger: Ledger, hold_id: bytes, duel: Record) -> list[Record]:
    seed = h("duel", ledger.entries[b"b"]["value"], hold_id)
    return draw_seats(ledger, SECOND_PANEL, seed, list_parties(duel), duel["challenger"] is not None)


def pay_judges(ledger: Ledger, duel: Record, pay: str, earning: list[bytes]) -> None:
    for seat in duel["seats"]:
        key = seat["public_key"]
        if seat["ballot"] is None:
            transact(ledger, duel, key, "-silence")
        elif pay and key in earning:
            transact(ledger, duel, key, pay)


def settle_repeats(ledger: Ledger, duel: Record) -> None:
    """What the repeated votes bring and show."""
    for seat in duel["repeats"]:
        if seat["ballot"] is None:
            transact(ledger, duel, seat["public_key"], "-silence")
        elif is_vote(seat["ballot"]):
            transact(ledger, duel, seat["public_key"], "judge")
    fined = []
    for seat in duel["repeats"]:
        pair = [*(each for each in duel["seats"] if each["public_key"] == seat["repeats"]), seat]
        ballots = [each["ballot"] for each in pair]
        if None in ballots:
            differing = [each for each in pair if each["ballot"] is None and each["commitment"] is not None]
        elif not all(is_vote(ballot) for ballot in ballots):
            continue
        else:
            differing = pair if ballots[0] != ballots[1] else []
        for each in differing if None in ballots else pair:
            record = ledger.get(b"j" + each["public_key"], NO_RECORD)
            record["repeats"] = (record["repeats"] + bytes([each in differing]))[-8:]
            if sum(record["repeats"]) >= MAX_DIFFERENCES:
                record |= {"repeats": b"", "benched_until": ledger.now + get_duels(ledger)["bench_ms"]}
                ledger.account(each["public_key"])["judge"] = None
                fined.append(each["public_key"])
    for key in fined:
        transact(ledger, duel, key, "-guessing")


def is_vote(ballot: Record | None) -> bool:
    return ballot is not None and ballot["better"] != ABSTAIN and ballot["missing"] == 0


def rate(ledger: Ledger, duel: Record, result: int | None) -> bool:
    """A verdict counts in the rating of the executor. Whether that makes too many void duels."""
    rating = ledger.get(b"e" + duel["executor"], NO_RATING)
    rating["duels"] += 1
    rating["probation"] = max(0, rating["probation"] - duel["amount"])
    if result is None:
        return False
    entries = split(rating["results"])
    name = duel["payer"][:8]
    if len([entry for entry in entries if entry[:8] == name]) == 20:
        entries.remove(next(entry for entry in entries if entry[:8] == name))
    entries = [*entries, name + bytes([result])][-200:]
    rating["results"] = b"".join(entries)
    if len([entry for entry in entries[-20:] if entry[8] == 3]) < 3:
        return False
    note_fraud(ledger, duel["executor"], weigh(ledger, duel))
    return True


def note_fraud(ledger: Ledger, key: bytes, weight: int) -> None:
    """What a fraud of this weight changes in the rating."""
    rating = ledger.get(b"e" + key, NO_RATING)
    entries = split(rating["results"])
    rating["results"] = b"".join(entry[:8] + bytes([entry[8] % 3]) for entry in entries)
    rating["duels"] = max(0, rating["duels"] - 1)
    rating["probation"] = min(2**63 - 1, rating["probation"] + get_duels(ledger)["probation_duels"] * weight)


def split(results: bytes) -> list[bytes]:
    return [results[start : start + 9] for start in range(0, len(results), 9)]


def read(seat: Record, is_solo: bool) -> Record:
    """A ballot with the answers by their authors."""
    names = {A: "challenger", B: "executor"} if seat["is_reversed"] else {A: "executor", B: "challenger"}
    if is_solo:
        names = {A: "executor"}
    ballot = seat["ballot"]
    return {
        "better": {**names, BOTH: "same"}.get(ballot["better"], ""),
        "unusable": {name for bit, name in names.items() if ballot["unusable"] & bit},
        "missing": {name for bit, name in names.items() if ballot["missing"] & bit},
    }


def close(ledger: Ledger, hold_id: bytes) -> Record:
    """What was set aside for a duel is free again, and it is removed."""
    duel: Record = ledger.entries.pop(b"u" + hold_id)
    ledger.account(duel["executor"])["locked"] -= duel["locked"]
    ledger.entries[b"s"]["reserved"] -= duel["reserved"]
    return duel


def compute_pay(ledger: Ledger, duel: Record, what: str) -> int:
    return share(ledger, duel, "judge") // 4 if what == "quarter" else share(ledger, duel, what)


def transact(ledger: Ledger, duel: Record, key: bytes, what: str) -> None:
    """An account gets the share of a parameter, or (with a minus) pays it."""
    if what.startswith("-"):
        ledger.collect(key, share(ledger, duel, what[1:]), available="last")
    elif what:
        amount = compute_pay(ledger, duel, what)
        ledger.entries[b"s"]["treasury"] -= amount
        ledger.account(key)["available"] += amount
        ledger.bond_income(key, amount)
