-- How a jobset stands, for people: nothing here reads all of its jobs, but for the export.

-- name: list_jobsets
-- The ids of all jobsets.
SELECT jobset_id FROM wb_jobsets ORDER BY jobset_id;

-- name: describe_jobset
-- The jobset itself, and when one of its nodes was last heard of.
SELECT now(), created_at, created_by,
       greatest(created_at, (SELECT max(beat_at) FROM wb_nodes n WHERE n.jobset_id = j.jobset_id))
FROM wb_jobsets j WHERE jobset_id = %(jobset_id)s;

-- name: describe_nodes
-- The nodes that are alive, and `ended` others, the latest first. What each has done is its last word in the logbook;
-- its rate is over the last five minutes, or over as many more as it took to do 20 jobs, or over its life.
SELECT n.node, n.host, n.pid, n.started_at, n.beat_at, n.ended_at, n.alive, n.stop, coalesce(c.bees, 0),
       coalesce(last.complete, 0), coalesce(last.failed, 0),
       coalesce((last.done - early.done)
                / nullif(extract(epoch FROM last.at - early.at)::float8, 0), 0),
       last.slowest
FROM (
    (SELECT *, true AS alive FROM wb_nodes
     WHERE jobset_id = %(jobset_id)s AND ended_at IS NULL AND beat_at > now() - lease)
    UNION ALL
    (SELECT *, false FROM wb_nodes
     WHERE jobset_id = %(jobset_id)s AND NOT (ended_at IS NULL AND beat_at > now() - lease)
     ORDER BY node DESC LIMIT %(ended)s)
) n
LEFT JOIN (SELECT node, count(DISTINCT abs(bee)) AS bees FROM {claims} GROUP BY node) c ON c.node = n.node
LEFT JOIN LATERAL (
    SELECT *, complete + failed AS done FROM wb_progress p WHERE p.node = n.node ORDER BY at DESC LIMIT 1) last ON true
LEFT JOIN LATERAL (
    SELECT * FROM (
        (SELECT at, complete + failed AS done FROM wb_progress p
         WHERE p.node = n.node AND p.at <= last.at - interval '5 min' AND p.complete + p.failed <= last.done - 20
         ORDER BY at DESC LIMIT 1)
        UNION ALL
        (SELECT at, complete + failed FROM wb_progress p WHERE p.node = n.node ORDER BY at LIMIT 1)
    ) either ORDER BY at DESC LIMIT 1) early ON true
ORDER BY n.alive DESC, CASE WHEN n.alive THEN n.node ELSE -n.node END;

-- name: describe_bees
-- The bees and what each holds: the first job of its older claim is the running one, once it has run for long.
SELECT abs(c.bee), c.node, n.host, nullif(max(c.pid), 0), coalesce(sum(c.hi - c.lo + 1), 0)::bigint,
       (array_agg(j.job_id ORDER BY c.since))[1], min(c.since),
       greatest(0, extract(epoch FROM now() - min(c.since)))::float8
FROM {claims} c JOIN wb_nodes n USING (node) LEFT JOIN {jobs} j ON j.pos = c.lo
GROUP BY abs(c.bee), c.node, n.host
ORDER BY 1;

-- name: sample_durations
-- Seconds that completed jobs took, from so many percent of the pages: positions are shuffled, so any page will do.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds),
       max(seconds), count(*)
FROM {jobs} TABLESAMPLE SYSTEM (%(percent)s) WHERE state = 'COMPLETE';

-- name: find_slowest
-- Seconds of the slowest job of all, by the nodes' logbooks.
SELECT max(last.slowest)
FROM wb_nodes n
CROSS JOIN LATERAL (SELECT slowest FROM wb_progress p WHERE p.node = n.node ORDER BY at DESC LIMIT 1) last
WHERE n.jobset_id = %(jobset_id)s;

-- name: find_position
-- Where the job is.
SELECT pos FROM {jobs} WHERE job_id = %(job_id)s;

-- name: list_failures
-- Every failed attempt that meets all conditions that are given, the latest first.
SELECT job_id, attempt, kind, type, exit_code, message, stack, log, final, failed_at, seconds, host, node, bee,
       nullif(pid, 0)
FROM wb_failures
WHERE jobset_id = %(jobset_id)s AND (%(pos)s IS NULL OR pos = %(pos)s) AND (%(kind)s IS NULL OR kind = %(kind)s)
  AND (%(match)s IS NULL OR position(%(match)s::text IN concat_ws(': ', type, message)) > 0)
ORDER BY failure DESC;

-- name: list_jobs
-- Every job, CLAIMED and by whom included. Claims as positions, so that a large table is joined by hashing.
WITH held AS (
    SELECT generate_series(lo, hi) AS pos, abs(bee) AS bee, since, node FROM {claims} WHERE lo IS NOT NULL
)
SELECT j.job_id, CASE WHEN held.bee IS NULL THEN j.state ELSE 'CLAIMED' END, j.errors, j.crashes, j.losses,
       coalesce(j.finished_at, held.since), j.seconds, n.host, held.bee, j.data::text
FROM {jobs} j
LEFT JOIN held ON held.pos = j.pos AND j.state = 'PENDING'
LEFT JOIN wb_nodes n ON n.node = coalesce(held.node, j.node);
