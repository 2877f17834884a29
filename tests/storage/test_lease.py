"""The lease: of many who want an output one has it, a dead one loses it, and one that lost it knows."""

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from longspan.errors import ConfigError, HeldError, LeaseLostError
from longspan.storage import lease as protocol
from longspan.storage import lease_files
from longspan.storage.lease import (
    Lease,
    Seen,
    acquire,
    is_ours,
    look,
    new_holder,
    release,
    renew,
    sweep,
    verify,
)
from longspan.storage.process import is_dead, this_process
from longspan.uri import Location, parse
from tests.leases import dead, everything, holder, someone
from tests.s3 import Fault, FaultProxy


@pytest.fixture
def output(root: str) -> Location:
    return parse(root)


def test_the_second_is_told_who_holds_it_and_how_to_take_it(output: Location) -> None:
    first = acquire(output, someone())
    with pytest.raises(HeldError) as refused:
        acquire(output, holder())
    text = str(refused.value)
    for part in (output.uri, "longspan train recipe.yaml", "gpu-7", "pid 4711", "since 20", "heartbeat", "--take-over"):
        assert part in text
    assert "\n" not in text
    assert refused.value.exit_code == 2
    verify(first)


def test_a_lease_that_is_let_go_leaves_nothing(output: Location) -> None:
    release(acquire(output, holder()))
    assert everything(output) == []
    release(acquire(output, holder()))


def test_a_dead_process_of_this_machine_holds_nothing(output: Location) -> None:
    acquire(output, dead())
    second = acquire(output, holder())
    assert second.generation == 2
    release(second)
    assert everything(output) == []


def test_a_process_id_is_not_a_process() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(replace(me, started=me.started - 1)), "the id was given out again"
    assert not is_dead(replace(me, started=me.started - 1, scope="of another boot")), "it may well live"
    assert not is_dead(replace(me, started=0, pid=2**22 + 1)), "a system that does not tell when it began"


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["sleep", "60"])
    stat = f"/proc/{process.pid}/stat"
    started = int(open(stat).read().rpartition(")")[2].split()[19])  # noqa: SIM115
    there = replace(this_process(), pid=process.pid, started=started)
    assert not is_dead(there)
    process.kill()
    while open(stat).read().rpartition(")")[2].split()[0] != "Z":  # noqa: SIM115
        time.sleep(0.01)
    assert is_dead(there)
    process.wait()
    assert is_dead(there)


def test_a_silent_holder_loses_it_after_the_expiry(output: Location) -> None:
    old = acquire(output, someone(expiry_s=1.0))
    new = wait_for(lambda: acquire(output, holder()))
    assert not is_ours(old)
    verify(new)


def test_a_heartbeat_keeps_it(output: Location) -> None:
    lease = acquire(output, someone())
    time.sleep(2)
    before = age_of(output)
    assert before >= 1
    renew(lease)
    assert age_of(output) < before


def age_of(output: Location) -> float:
    seen = look(output)
    assert seen is not None
    return seen.age_s


def wait_for(take: Callable[[], Lease]) -> Lease:
    until = time.monotonic() + 60
    while True:
        try:
            return take()
        except HeldError:
            assert time.monotonic() < until
            time.sleep(0.2)


@pytest.mark.parametrize("hours", [-5, 5])
def test_no_clock_but_the_stores_is_asked(output: Location, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    now = time.time
    acquire(output, someone())
    if not output.is_remote:  # requests are signed with the time
        monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    assert abs(age_of(output)) < 50
    with pytest.raises(HeldError):
        acquire(output, holder())


def test_who_is_taken_over_knows_by_whom_and_brings_nothing_back(output: Location) -> None:
    old = acquire(output, someone())
    waited: list[float] = []
    new = acquire(output, replace(holder(), command="longspan train other.yaml"), take_over=True, wait=waited.append)
    assert waited == [15.0], "a write that has begun may still land"
    for action in (verify, renew):
        with pytest.raises(LeaseLostError, match=r"taken over by 'longspan train other\.yaml' \(.*pid \d+\) since"):
            action(old)
    release(old)
    verify(new)
    release(new)
    for action in (verify, renew):
        with pytest.raises(LeaseLostError, match="by one that has ended since, or the output was removed"):
            action(old)
    assert everything(output) == []


def test_the_same_generation_of_another_is_not_ours(output: Location) -> None:
    old = acquire(output, someone())
    lease_files.remove(output, 1)
    new = acquire(output, someone())
    assert old.generation == new.generation
    with pytest.raises(LeaseLostError):
        verify(old)
    release(old)
    verify(new)


def test_what_is_no_lease_is_nobodys_for_a_minute(output: Location) -> None:
    """An exclusive creation is not whole at once where there are no links; nobody may come between."""
    lease_files.create(output, 1, b'{"what": "tr')
    with pytest.raises(HeldError, match="in use by another driver"):
        acquire(output, holder())
    with pytest.raises(HeldError):
        sweep(output)


def test_dead_leases_inside_are_swept(output: Location) -> None:
    sweep(output)
    acquire(output, dead())
    sweep(output)
    assert everything(output) == []


@pytest.mark.parametrize("before", ["nobody", "a dead one", "a living one"])
def test_of_many_one_has_it(output: Location, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living one is taken over by one of those who saw it, not by each from the one before."""
    takers = 12
    if before != "nobody":
        acquire(output, dead() if before == "a dead one" else someone())
    barrier, begun = threading.Barrier(takers), threading.local()

    def look_together(place: Location) -> Seen | None:
        seen = look(place)
        if not hasattr(begun, "looked"):
            begun.looked = True
            barrier.wait()
        return seen

    def take(number: int) -> Lease | None:
        try:
            return acquire(output, holder(), take_over=before == "a living one", wait=lambda _: None)
        except HeldError:
            return None

    monkeypatch.setattr(protocol, "look", look_together)
    with ThreadPoolExecutor(takers) as pool:
        (winner,) = (lease for lease in pool.map(take, range(takers)) if lease is not None)
    verify(winner)


def test_an_answer_that_was_lost_does_not_lock_one_out(s3_bucket: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    """The first PUT made the file, its answer was lost, the second is refused: by our own first."""
    proxy = fault_proxy(Fault("lost", times=1, method="PUT", path=".longspan-lease"))
    lease = acquire(parse(f"{s3_bucket}/run"), holder())
    assert proxy.struck == {"lost": 1}
    verify(lease)


def test_a_file_system_without_links(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    output = parse(str(tmp_path / "run"))
    first = acquire(output, someone())
    with pytest.raises(HeldError):
        acquire(output, holder())
    verify(first)


def test_credentials_are_not_written(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_holder("train", "longspan train https://ada:secret@host/x\n--set a=b")
    acquire(output, made)
    text = lease_files.read(output, 1)
    assert text is not None
    assert b"secret" not in text
    assert json.loads(text)["command"] == "longspan train https://***@host/x --set a=b"


@pytest.mark.parametrize("text", ["soon", "0.5", "-3", "inf", "nan"])
def test_an_expiry_that_is_no_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_LEASE_EXPIRY_S", text)
    with pytest.raises(ConfigError, match=r"LONGSPAN_LEASE_EXPIRY_S=.* is not a time; write seconds, 1 or more"):
        new_holder("train", "")


# Every order of events: the protocol over files in memory, one operation at a time, in an order that is drawn.


@dataclass
class World:
    """Lease files in memory. Each operation waits until it is drawn; some actors die for ever in the middle."""

    files: dict[int, bytes] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)
    owner: dict[int, int] = field(default_factory=dict)
    clock: int = 0
    waiting: dict[int, threading.Event] = field(default_factory=dict)
    local: Any = field(default_factory=threading.local)
    ready: threading.Condition = field(default_factory=threading.Condition)
    running: set[int] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)

    def kill(self, actor: int) -> None:
        """It does nothing more; all others give a sign of life, and its own is as old as a lease gets."""
        self.killed.add(actor)
        self.clock += 1000
        living = [generation for generation in self.files if self.owner[generation] not in self.killed]
        self.touched |= dict.fromkeys(living, self.clock)

    def turn(self) -> None:
        mine = threading.Event()
        with self.ready:
            self.waiting[self.local.actor] = mine
            self.ready.notify()
        mine.wait()
        if self.local.actor in self.killed:
            raise SystemExit

    def ages(self, output: Location) -> dict[int, float]:
        self.turn()
        return {generation: float(self.clock - self.touched[generation]) for generation in self.files}

    def generations(self, output: Location) -> list[int]:
        self.turn()
        return sorted(self.files)

    def read(self, output: Location, generation: int) -> bytes | None:
        self.turn()
        return self.files.get(generation)

    def create(self, output: Location, generation: int, data: bytes) -> bool:
        self.turn()
        if generation in self.files:
            return False
        self.files[generation], self.touched[generation] = data, self.clock
        self.owner[generation] = self.local.actor
        return True

    def touch(self, output: Location, generation: int, data: bytes) -> bool:
        self.turn()
        if generation not in self.files:
            return False
        self.touched[generation] = self.clock
        return True

    def remove(self, output: Location, generation: int) -> None:
        self.turn()
        self.files.pop(generation, None)

    def clear(self, output: Location) -> None:
        self.turn()


@dataclass
class Actor:
    """Takes the lease, writes under it, lets go; again and again. `holds` between the taking and the letting go."""

    number: int
    world: World
    holds: bool = False
    lost: int = 0
    refused: int = 0
    rounds: int = 0

    def live(self) -> None:
        self.world.local.actor = self.number
        output = Location(None, "/out")
        try:
            for _ in range(5):
                try:
                    lease = acquire(output, someone(expiry_s=1000.0))
                except HeldError:
                    self.refused += 1
                    continue
                self.holds = True
                for _ in range(2):
                    renew(lease)
                self.holds = False
                release(lease)
                self.rounds += 1
        except LeaseLostError:
            self.lost += 1
        except SystemExit:
            pass
        finally:
            self.holds = False
            with self.world.ready:
                self.world.running.discard(self.number)
                self.world.ready.notify()


DEATHS, ACTORS = 0.02, 6


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[World, list[Actor]]:
    """Six actors in one drawn order; now and then one dies, and the time that its lease needs to end goes by."""
    draw = random.Random(seed)
    world = World()
    urgency = [
        draw.random() for _ in range(ACTORS)
    ]  # who is not urgent stands still for long, which is when things happen
    for name in ("ages", "generations", "read", "create", "touch", "remove", "clear"):
        monkeypatch.setattr(lease_files, name, getattr(world, name))
    actors = [Actor(number, world) for number in range(ACTORS)]
    world.running = {actor.number for actor in actors}
    threads = [threading.Thread(target=actor.live, daemon=True) for actor in actors]
    for thread in threads:
        thread.start()
    while True:
        with world.ready:
            world.ready.wait_for(lambda: set(world.waiting) == world.running)
            if not world.running:
                break
            if draw.random() < 0.1:
                urgency[draw.randrange(ACTORS)] = draw.random()
            chosen = max(world.running, key=urgency.__getitem__)
            if draw.random() < DEATHS:
                world.kill(chosen)
            assert sum(actor.holds for actor in actors if actor.number not in world.killed) <= 1, f"seed {seed}"
            world.waiting.pop(chosen).set()
    for thread in threads:
        thread.join()
    return world, actors


def test_in_any_order_of_events_one_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = refused = deaths = 0
    for seed in range(400):
        world, actors = play(seed, monkeypatch)
        living = [actor for actor in actors if actor.number not in world.killed]
        assert {world.owner[generation] for generation in world.files} <= world.killed, "only the dead leave theirs"
        rounds += sum(actor.rounds for actor in living)
        refused += sum(actor.refused for actor in living)
        deaths += len(world.killed)
        assert all(actor.rounds + actor.refused + actor.lost for actor in living)
    assert rounds > 400
    assert refused > 400
    assert deaths > 100
