"""What the script of a node printed, and how it ended: whether that is what was done to it."""

from __future__ import annotations

import math
import re
import signal
from collections import Counter
from collections.abc import Iterator

from tests.chaos.fleet import Node
from tests.chaos.records import Disturbance, Hit

# Exit codes of a script that was told to stop; negative where it has no handler, or raises KeyboardInterrupt.
STOPPED = {
    signal.SIGTERM: {143, -signal.SIGTERM},
    signal.SIGINT: {-signal.SIGINT},
    signal.SIGHUP: {129, -signal.SIGHUP},
    signal.SIGKILL: {-signal.SIGKILL},
}
# How bad jobs end the process of an inline bee; 120: they replaced sys.stdout, which Python flushes when it ends.
SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGKILL)
CRASHES = {0, 1, 3, 77, 120, *(-number for number in SIGNALS)}
KEEPERS = 5
RAISED = ("KeyboardInterrupt", "DatabaseError", "NodeFailed")  # to end the script
STALLS = ("stop_keeper", "stop_supervisor", "freeze_network", "restart", "fill_connections")
OUTAGES = ("restart", "fill_connections", "freeze_network", "cut_sessions", "lose_answers")


def wrong_output(node: Node, hits: list[Hit], disturbances: list[Disturbance]) -> Iterator[str]:
    """What nothing that was done to `node` explains."""
    said = node.said()
    where = f"node {node.pid} ({node.log.name})"
    killed = sum(hit.node == node.pid and hit.role == "keeper" for hit in hits)
    if not _explained(node, said, killed, disturbances):
        yield f"{where} ended with {node.process.returncode}: {' | '.join(said.splitlines()[-4:])}"
    keepers = Counter(re.findall(r"the keeper died \((.*?)\)", said))
    # The supervisor replaces one that does nothing.
    stalled = any(d.touches(node.pid, 0, math.inf) and d.name in STALLS for d in disturbances)
    if (keepers.total() > killed and not stalled) or keepers.keys() - {"SIGKILL"}:
        yield f"{where} lost keepers by {dict(keepers)}, of which {killed} were killed"
    # No job's exception is printed, so these are ours.
    orphaned = any(hit.node == node.pid and hit.role == "supervisor" for hit in hits)
    for trace in re.finditer(r"^Traceback .*\n(?: .*\n)+([\w.]+)", said, re.MULTILINE):
        raised = trace[1].rpartition(".")[2]
        # A spawned process that is not told to the end what to do, since its supervisor was killed, says so.
        if raised == "EOFError" and orphaned and "/multiprocessing/" in trace[0]:
            continue
        if raised not in RAISED:
            yield f"{where} printed a traceback of {raised}"
    hit = {hit.pid for hit in hits}
    for bee, why in re.findall(r"bee (\d+) died before it claimed a job \((.*?)\)", said):
        if why != "SIGKILL" or not hit:
            yield f"{where} lost bee {bee} before it had a job: {why}"


def _explained(node: Node, said: str, keepers_killed: int, disturbances: list[Disturbance]) -> bool:
    code = node.process.returncode
    allowed = {0} | {code for _, number in node.signals for code in STOPPED[number]}
    if node.inline:
        allowed |= CRASHES
    if code == 1 and "DatabaseError" in said:
        lived = (node.began, node.ended or node.began)
        return any(d.touches(node.pid, *lived) and d.name in OUTAGES for d in disturbances)
    if code == 1 and "NodeFailed: 5 keepers in a row died" in said:
        return keepers_killed >= KEEPERS
    return code in allowed
