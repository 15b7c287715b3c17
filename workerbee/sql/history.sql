-- What happened over time: the nodes' logbooks and the failures, summed up in steps of the same length.

-- name: find_span
-- When the first node started, and the seconds until the last that is known: of all nodes that are alive, or else of
-- anyone.
SELECT begun, coalesce(extract(epoch FROM coalesce(heard, greatest(entered, failed)) - begun)::float8, 0)
FROM (
    SELECT coalesce(min(n.started_at), min(j.created_at)) AS begun, max(last.at) AS entered,
           min(last.at) FILTER (WHERE n.ended_at IS NULL AND n.beat_at > now() - n.lease) AS heard,
           (SELECT max(failed_at) FROM wb_failures f WHERE f.jobset_id = %(jobset_id)s) AS failed
    FROM wb_jobsets j
    LEFT JOIN wb_nodes n USING (jobset_id)
    LEFT JOIN LATERAL (SELECT at FROM wb_progress p WHERE p.node = n.node ORDER BY at DESC LIMIT 1) last ON true
    WHERE j.jobset_id = %(jobset_id)s
) known;

-- name: sum_progress
-- By step: jobs that became COMPLETE, that became FAILED, and bees on the average. What happened between two entries is
-- taken to have happened evenly.
WITH entries AS (
    SELECT extract(epoch FROM lag(at) OVER one - %(begun)s)::float8 AS since,
           extract(epoch FROM at - %(begun)s)::float8 AS until,
           complete - lag(complete) OVER one AS complete, failed - lag(failed) OVER one AS failed,
           greatest(bees, lag(bees) OVER one) AS bees
    FROM wb_progress JOIN wb_nodes USING (node)
    WHERE jobset_id = %(jobset_id)s
    WINDOW one AS (PARTITION BY node ORDER BY at)
), shares AS (
    SELECT number, complete, failed, bees, until - since AS whole,
           least(until, (number + 1) * %(step)s) - greatest(since, number * %(step)s) AS part
    FROM entries CROSS JOIN LATERAL generate_series(floor(since / %(step)s)::int, floor(until / %(step)s)::int) number
    WHERE until > since
)
SELECT number, sum(complete * part / whole)::float8, sum(failed * part / whole)::float8,
       sum(bees * part / %(step)s)::float8
FROM shares WHERE number BETWEEN 0 AND %(steps)s - 1 GROUP BY 1;

-- name: sum_failures
-- By step and kind: failed attempts.
SELECT least(floor(since / %(step)s), %(steps)s - 1)::int, kind, count(*)
FROM (SELECT kind, extract(epoch FROM failed_at - %(begun)s)::float8 AS since
      FROM wb_failures WHERE jobset_id = %(jobset_id)s) one
WHERE since BETWEEN 0 AND %(step)s * %(steps)s GROUP BY 1, 2;

-- name: sum_durations
-- Completed jobs by the tenth of a decade of the seconds they took, from so many percent of the pages.
SELECT floor(10 * log(greatest(seconds, 1e-6)::float8))::int, count(*)
FROM {jobs} TABLESAMPLE SYSTEM (%(percent)s) WHERE state = 'COMPLETE' GROUP BY 1 ORDER BY 1;
