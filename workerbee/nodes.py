"""The nodes of a jobset in the database: a method per step of their way, and what is done when one could not end."""

from __future__ import annotations

from workerbee.channel import Channel
from workerbee.errors import DatabaseError


class Nodes(Channel):
    """The nodes that work, or worked, on the jobset `jobset_id`, over one `connection`, which it owns."""

    def add_node(self, host: str, machine: str, pid: int, lease: float) -> int:
        """Make a node known; its claims are safe while it beats at least every `lease` seconds."""
        ((node,),) = self.run("add_node", host=host, machine=machine, pid=pid, lease=lease)
        return int(node)

    def beat_node(self, node: int, keeper_pid: int) -> None:
        """The node lives."""
        if not self.run("beat_node", node=node, keeper_pid=keeper_pid):
            raise self._dropped()

    def _dropped(self) -> DatabaseError:
        return DatabaseError(f"jobset '{self.jobset_id}', which this node worked on, has been dropped")

    def end_node(self, node: int) -> None:
        """The node ends in order, its claims settled."""
        with self.transaction():
            self.run("drop_empty_bees", node=node)
            self.run("end_node", node=node)

    def silent_bees(self, node: int) -> list[tuple[int, str]]:
        """Bees of other nodes that missed their lease, each with its host."""
        return [(bee, host) for bee, host in self.run("find_silent_bees", node=node)]

    def machine_bees(self, node: int, machine: str) -> list[tuple[int, list[int]]]:
        """Bees of other nodes on `machine`, each with the processes that may still speak for it."""
        rows = self.run("find_machine_bees", node=node, machine=machine)
        return [(bee, [pid for pid in pids if pid]) for bee, *pids in rows]

    def end_silent_nodes(self) -> None:
        """Mark the nodes as ended that are silent and hold nothing any more."""
        self.run("end_silent_nodes")
