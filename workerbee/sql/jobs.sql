-- Claiming jobs and settling them. Every statement names the claim that it expects to be in force.

-- name: add_bee
-- A bee makes itself known; it holds nothing yet. So its node is alive: the keeper may not have come to say so. With
-- what it would ask next: how many jobs there are, and how transactions are isolated here if they do not say it. No row:
-- its jobset was dropped, and this is another one of that name.
WITH heard AS (
    UPDATE wb_nodes SET beat_at = clock_timestamp(), ended_at = NULL
    -- Not each time: where bees die often, they would wait for each other.
    WHERE node = %(node)s AND (beat_at < now() - lease / 4 OR ended_at IS NOT NULL)
)
INSERT INTO {claims} (bee, node, pid)
SELECT nextval('wb_bees'), node, %(pid)s FROM wb_nodes WHERE node = %(node)s
RETURNING bee, (SELECT total FROM wb_jobsets WHERE jobset_id = %(jobset_id)s),
          current_setting('default_transaction_isolation');

-- name: add_hand
-- A bee that holds a claim gets a second row, in which it holds nothing yet. It may have one, if the answer was lost. If
-- it had one and lost it, late words about that one must not be taken for this: numbers grow by 1, and not so fast as
-- microseconds.
INSERT INTO {claims} (bee, number, node, pid)
SELECT -bee, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint, %(node)s, %(pid)s
FROM {claims} WHERE bee = %(bee)s
ON CONFLICT (bee) DO UPDATE SET pid = excluded.pid
RETURNING number;

-- name: introduce_bees
-- Heirs are alive, and known by their pids. One that is locked is left alone: see seize_claim.
UPDATE {claims} c SET pid = heir.pid
FROM unnest(%(bees)s::bigint[], %(pids)s::integer[]) heir (bee, pid),
     (SELECT bee FROM {claims} WHERE bee = ANY(%(bees)s) FOR UPDATE SKIP LOCKED) free
WHERE c.bee = heir.bee AND free.bee = heir.bee
RETURNING c.bee;

-- name: hold_claim
-- Lock a bee's claim before settling it; nothing comes back when somebody has taken it away.
SELECT number, attempts, lo, hi, pid, node FROM {claims} WHERE bee = %(bee)s FOR UPDATE;

-- name: seize_claim
-- Lock the claim of another process; nothing comes back when somebody has it locked. That may be the bee itself,
-- suspended in the middle of a transaction: who waits for that may wait for ever.
SELECT number, attempts, lo, hi, pid, node FROM {claims} WHERE bee = %(bee)s FOR UPDATE SKIP LOCKED;

-- name: find_claim
-- What a bee holds: read back when the answer to a claim was lost with its connection.
SELECT c.number, j.pos, j.job_id, j.data::text
FROM {claims} c LEFT JOIN {jobs} j ON j.pos BETWEEN c.lo AND c.hi
WHERE c.bee = %(bee)s ORDER BY j.pos;

-- name: complete_jobs
-- The function returned for these positions.
UPDATE {jobs} j
SET state = 'COMPLETE', finished_at = now(), node = %(node)s, seconds = done.seconds
FROM unnest(%(done)s::bigint[], %(seconds)s::real[]) AS done (pos, seconds)
WHERE j.pos = done.pos AND j.state = 'PENDING';

-- name: charge_jobs
-- Record a failed attempt of each of a range of jobs and count it by `counter`; the job is pending again behind all with fewer attempts, or FAILED.
WITH charged AS (
    UPDATE {jobs} j
    SET errors = errors + (%(counter)s = 'errors')::int,
        crashes = crashes + (%(counter)s = 'crashes')::int,
        losses = losses + (%(counter)s = 'losses')::int,
        state = CASE WHEN before.spent THEN 'FAILED' ELSE 'PENDING' END,
        finished_at = CASE WHEN before.spent THEN now() END,
        node = CASE WHEN before.spent THEN %(node)s END
    FROM (SELECT pos, CASE %(counter)s WHEN 'errors' THEN errors WHEN 'crashes' THEN crashes ELSE losses END
                      + 1 >= %(limit)s AS spent
          FROM {jobs}) before
    WHERE j.pos BETWEEN %(lo)s AND %(hi)s AND before.pos = j.pos AND j.state = 'PENDING'
    RETURNING j.pos, j.job_id, j.state, errors::integer + crashes + losses AS attempts,
              CASE %(counter)s WHEN 'errors' THEN errors WHEN 'crashes' THEN crashes ELSE losses END AS count
), again AS (
    INSERT INTO {ranges} (attempts, hi, lo, failed_on)
    SELECT attempts, pos, pos, %(node)s FROM charged WHERE state = 'PENDING'
), record AS (
    INSERT INTO wb_failures (jobset_id, pos, job_id, attempt, kind, type, message, stack, exit_code, log, final,
                             node, host, pid, bee, seconds)
    SELECT %(jobset_id)s, pos, job_id, attempts, %(kind)s, %(type)s, %(message)s, %(stack)s, %(exit_code)s,
           %(log)s, state = 'FAILED', %(node)s, coalesce((SELECT host FROM wb_nodes WHERE node = %(node)s), ''),
           %(pid)s, %(bee)s, %(seconds)s
    FROM charged ORDER BY pos
)
SELECT job_id, state, attempts, count FROM charged ORDER BY pos;

-- name: release_jobs
-- Ranges of positions that were claimed and not tried are pending again, uncharged.
INSERT INTO {ranges} (attempts, hi, lo)
SELECT %(attempts)s, hi, lo FROM unnest(%(lows)s::bigint[], %(highs)s::bigint[]) AS rest (lo, hi);

-- name: cut_claim
-- Of what the bee holds, one position is left; the number stays, since the bee knows nothing of it.
UPDATE {claims} SET lo = %(pos)s, hi = %(pos)s WHERE bee = %(bee)s AND number = %(number)s;

-- name: empty_claim
-- The bee holds nothing any more, and goes on.
UPDATE {claims} SET number = number + 1, attempts = NULL, lo = NULL, hi = NULL, since = NULL WHERE bee = %(bee)s;

-- name: leave_claim
-- Like hold_claim, for a dead bee whose heir goes on: a process that does not exist yet.
UPDATE {claims} SET pid = 0 WHERE bee = %(bee)s RETURNING number, attempts, lo, hi, pid, node;

-- name: drop_bee
-- The bee has ended.
DELETE FROM {claims} WHERE bee = %(bee)s;

-- name: drop_if_empty
-- The same, of bees that hold nothing; all in one.
DELETE FROM {claims} WHERE bee = ANY(%(bees)s) AND lo IS NULL RETURNING bee;

-- name: count_jobs
-- The jobset's jobs by state, from small tables alone: COMPLETE is what is left of the total. And for one node: the
-- pending jobs that it may claim, the nodes that live beside it, and whether it was told to stop.
WITH beside AS (
    SELECT count(*) AS nodes FROM wb_nodes
    WHERE jobset_id = %(jobset_id)s AND node <> %(node)s AND ended_at IS NULL AND beat_at > now() - lease
)
SELECT (SELECT total FROM wb_jobsets WHERE jobset_id = %(jobset_id)s),
       r.pending,
       (SELECT coalesce(sum(hi - lo + 1), 0)::bigint FROM {claims}),
       (SELECT count(*) FROM wb_failures WHERE jobset_id = %(jobset_id)s AND final),
       CASE WHEN beside.nodes = 0 THEN r.pending ELSE r.untried END,
       beside.nodes,
       (SELECT stop FROM wb_nodes WHERE node = %(node)s)
FROM beside, (
    SELECT coalesce(sum(hi - lo + 1), 0)::bigint AS pending,
           coalesce(sum(hi - lo + 1) FILTER (WHERE failed_on <> %(node)s), 0)::bigint AS untried
    FROM {ranges}) r;

-- name: group_failures
-- The jobset's failures by kind and message, the most frequent first.
SELECT kind, type, message, count(*), min(job_id) FROM wb_failures
WHERE jobset_id = %(jobset_id)s
GROUP BY kind, type, message ORDER BY count(*) DESC, min(failure) LIMIT %(most)s;
