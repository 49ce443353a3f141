"""Availability: an owner's hours and own use decide whether other nodes are served."""

from __future__ import annotations

import trio

from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.scheduling.availability import AvailabilityGate, Hours, judge_availability
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from serving.scheduling.weekly_schedule import WeeklySchedule

IDLE = PolicyParameters(serve_others="idle", idle_after_minutes=10)


def test_the_policy_decides_before_hours_and_use() -> None:
    closed = Hours(False, 0, 90_000)
    for parameters, hours, quiet_s, is_open, changes_in_s in [
        (PolicyParameters(), None, 0.0, True, None),
        (PolicyParameters(serve_others="never"), None, 1e9, False, None),
        (IDLE, None, 0.0, False, 600.0),
        (IDLE, None, 599.0, False, 1.0),
        (IDLE, None, 600.0, True, None),
        (PolicyParameters(), closed, 0.0, False, 60.0),
        (IDLE, closed, 1e9, False, 60.0),
        (IDLE, Hours(True, 0, 90_000), 1e9, True, 60.0),
        (PolicyParameters(), Hours(True, 0, None), 0.0, True, None),
    ]:
        found = judge_availability(parameters, hours, 30_000, quiet_s)
        assert (found.is_open, found.changes_in_s) == (is_open, changes_in_s), parameters


def test_a_node_is_idle_when_its_users_have_been_quiet_for_long_enough() -> None:
    async def main() -> None:
        gate = AvailabilityGate(ProbabilisticPolicy(IDLE), SimulatedRuntime(1))
        assert not gate.check().is_open  # nobody knows who was here before
        await trio.sleep(600)
        assert gate.check().is_open
        with gate.own_use():
            await trio.sleep(1_000)
            assert not gate.check().is_open
            with gate.own_use():
                pass
            await trio.sleep(700)
            assert not gate.check().is_open  # one is still here
        assert gate.check().retry_after_s == 600
        await trio.sleep(601)
        assert gate.check().is_open

    run_simulation(1, main)


def test_hours_are_those_of_the_clock_and_follow_the_policy() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime(1)  # begins on a Tuesday, 2023-11-14 22:13:20 UTC
        policy = ProbabilisticPolicy(PolicyParameters(schedule=("Tue 22:00-22:30",)))
        gate = AvailabilityGate(policy, runtime)
        schedule = WeeklySchedule.parse(policy.parameters.schedule, "UTC")
        for _ in range(40):
            assert gate.check().is_open == schedule.is_open(runtime.now())
            await trio.sleep(60)
        assert not gate.check().is_open
        policy.parameters = PolicyParameters(schedule=("Tue 22:00-23:30",))
        assert gate.check().is_open

    run_simulation(1, main)
