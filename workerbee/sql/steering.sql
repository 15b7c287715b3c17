-- What people do to a jobset while its nodes work. Whoever changes its jobs has its row in wb_jobsets locked: one at a
-- time, and nobody counts jobs twice.

-- name: lock_jobset
-- Wait until nobody else steers the jobset; nothing comes back when it is gone.
SELECT total FROM wb_jobsets WHERE jobset_id = %(jobset_id)s FOR UPDATE;

-- name: find_unknown_ids
-- Ids in the staging table that the jobset does not have: how many, and some of them.
SELECT count(*), (array_agg(job_id ORDER BY job_id))[1:3]
FROM pg_temp.wb_staging s WHERE NOT EXISTS (SELECT FROM {jobs} j WHERE j.job_id = s.job_id);

-- name: create_chosen
-- Positions of the jobs that are meant.
CREATE TEMPORARY TABLE wb_chosen (pos bigint PRIMARY KEY) ON COMMIT DROP;

-- name: choose_failed
-- FAILED jobs: those staged, or all; by how their last attempt failed.
INSERT INTO pg_temp.wb_chosen
SELECT DISTINCT f.pos FROM wb_failures f
WHERE f.jobset_id = %(jobset_id)s AND f.final AND (%(kind)s IS NULL OR f.kind = %(kind)s)
  AND (%(match)s IS NULL OR position(%(match)s::text IN concat_ws(': ', f.type, f.message)) > 0)
  AND (%(every)s OR f.pos IN (SELECT j.pos FROM pg_temp.wb_staging s JOIN {jobs} j USING (job_id)));

-- name: choose_ended
-- COMPLETE and FAILED jobs: those staged, or all; and how many of the jobs that were meant a bee holds.
WITH chosen AS (
    INSERT INTO pg_temp.wb_chosen
    SELECT pos FROM {jobs}
    WHERE state <> 'PENDING' AND (%(every)s OR job_id IN (SELECT job_id FROM pg_temp.wb_staging))
), held AS (
    SELECT generate_series(lo, hi) AS pos FROM {claims} WHERE lo IS NOT NULL
)
SELECT count(*) FROM held
WHERE %(every)s OR pos IN (SELECT pos FROM pg_temp.wb_staging JOIN {jobs} USING (job_id));

-- name: send_back
-- The chosen jobs are pending as they were when they were new, in ranges of the width that new ones would have; of what
-- failed before, nothing is final any more. How many.
WITH again AS (
    UPDATE {jobs} j
    SET state = 'PENDING', errors = 0, crashes = 0, losses = 0, finished_at = NULL, node = NULL, seconds = NULL
    FROM pg_temp.wb_chosen c WHERE j.pos = c.pos AND j.state <> 'PENDING'
    RETURNING j.pos
), forgiven AS (
    UPDATE wb_failures f SET final = false
    FROM again WHERE f.jobset_id = %(jobset_id)s AND f.pos = again.pos AND f.final
), dealt AS (
    INSERT INTO {ranges} (attempts, hi, lo)
    SELECT 0, max(pos), min(pos)
    FROM (SELECT pos, pos - row_number() OVER (ORDER BY pos) AS run, count(*) OVER () AS number FROM again) r
    GROUP BY run, pos / greatest(1, least(%(most)s, number / 512))
)
SELECT count(*) FROM again;

-- name: add_jobs
-- The staged jobs that the jobset does not have, behind its last one in one random order.
INSERT INTO {jobs} (pos, job_id, data)
SELECT %(total)s + row_number() OVER (ORDER BY random()), job_id, data
FROM pg_temp.wb_staging s WHERE NOT EXISTS (SELECT FROM {jobs} j WHERE j.job_id = s.job_id);

-- name: find_last_position
-- Where the last job is.
SELECT max(pos) FROM {jobs};

-- name: deal_more_ranges
-- The jobs from `first` to `last` are pending, as those were with which the jobset began.
INSERT INTO {ranges} (attempts, hi, lo)
SELECT 0, least(lo + width - 1, %(last)s), lo
FROM (SELECT greatest(1, least(%(most)s, (%(last)s - %(first)s + 1) / 512))::bigint AS width) size,
     generate_series(%(first)s::bigint, %(last)s::bigint, width) lo;

-- name: stop_nodes
-- The nodes that have not ended, or the one, are to end; who was told to end now is not told to drain. Those alive.
UPDATE wb_nodes SET stop = CASE stop WHEN 'now' THEN 'now' ELSE %(stop)s END
WHERE jobset_id = %(jobset_id)s AND ended_at IS NULL AND (%(only)s::bigint IS NULL OR node = %(only)s)
RETURNING node, beat_at > now() - lease;

-- name: find_alive_nodes
-- Who works on the jobset.
SELECT host, pid FROM wb_nodes
WHERE jobset_id = %(jobset_id)s AND ended_at IS NULL AND beat_at > now() - lease
ORDER BY node;

-- name: drop_jobset
-- Nothing is left of the jobset.
DROP TABLE IF EXISTS {jobs}, {ranges}, {claims} CASCADE;
DROP FUNCTION IF EXISTS {next};
DELETE FROM wb_progress p USING wb_nodes n WHERE p.node = n.node AND n.jobset_id = %(jobset_id)s;
DELETE FROM wb_nodes WHERE jobset_id = %(jobset_id)s;
DELETE FROM wb_failures WHERE jobset_id = %(jobset_id)s;
DELETE FROM wb_jobsets WHERE jobset_id = %(jobset_id)s;
