-- Nodes, their heartbeats, and the claims of those that are gone.

-- name: add_node
-- A node makes itself known.
INSERT INTO wb_nodes (jobset_id, host, machine, pid, lease)
VALUES (%(jobset_id)s, %(host)s, %(machine)s, %(pid)s, make_interval(secs => %(lease)s))
RETURNING node;

-- name: beat_node
-- The node is alive: by the database's clock, and whatever was thought of it meanwhile. No row: its jobset was dropped.
UPDATE wb_nodes SET beat_at = clock_timestamp(), keeper_pid = %(keeper_pid)s, ended_at = NULL WHERE node = %(node)s
RETURNING node;

-- name: add_progress
-- How far the node is, for its history: the bees it has, the jobs that became COMPLETE or FAILED here, and the seconds
-- of the slowest that completed.
INSERT INTO wb_progress (node, bees, complete, failed, slowest)
VALUES (%(node)s, %(bees)s, %(complete)s, %(failed)s, %(slowest)s);

-- name: end_node
-- The node ends in order.
UPDATE wb_nodes SET ended_at = now() WHERE node = %(node)s;

-- name: drop_empty_bees
-- Bees of this node that were killed before they could tell the board who they are; they hold nothing.
DELETE FROM {claims} WHERE node = %(node)s AND lo IS NULL;

-- name: find_silent_bees
-- Bees of nodes that have not been heard of for longer than their own lease, or that nobody knows.
SELECT c.bee, coalesce(n.host, '?')
FROM {claims} c LEFT JOIN wb_nodes n ON n.node = c.node
WHERE c.node <> %(node)s AND (n.node IS NULL OR n.beat_at < now() - n.lease);

-- name: find_machine_bees
-- Bees of other nodes on this machine, with the processes that speak for them.
SELECT c.bee, c.pid, n.pid, n.keeper_pid
FROM {claims} c JOIN wb_nodes n USING (node)
WHERE n.node <> %(node)s AND n.machine = %(machine)s;

-- name: end_silent_nodes
-- Nodes that are silent and hold nothing have ended, as far as anyone can tell.
UPDATE wb_nodes n SET ended_at = now()
WHERE jobset_id = %(jobset_id)s AND ended_at IS NULL AND beat_at < now() - lease
  AND NOT EXISTS (SELECT FROM {claims} c WHERE c.node = n.node);
