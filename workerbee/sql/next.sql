-- A bee's step from one claim to the next. A function, so that every server session keeps its plan: planning would take
-- longer than doing it, and a statement that a client prepares is lost behind a pooler.

-- name: create_next
-- Settle and claim in one go. Of the claim `my_number`, which began at position `first`, the jobs have completed, each
-- after so many microseconds; those that a keeper has cut off it are left alone: they may have been reset since. Claim
-- up to `wanted` others at random: from those with the fewest attempts, from position `start` upwards, then from the
-- lowest. A range that another bee holds is skipped, and so, unless the node is `alone`, is one whose job failed on it
-- last: another node may do better. Where the answer has to wait, no more is claimed than has `room`, in bytes, outside
-- the server, which cannot commit before it is rid of the rest. No row: the claim has been taken away, and nothing is
-- done. Position NULL: nothing is pending; 0: others hold what is, or there is no room for it. (For `lock_timeout` see
-- transactions.sql. It stands here since to say it with each call takes as long as a good part of the call.)
CREATE OR REPLACE FUNCTION {next}(my_bee bigint, my_number bigint, first bigint, took bigint[], wanted integer,
                                  my_node bigint, alone boolean, start bigint, room integer)
RETURNS TABLE (pos bigint, job_id text, data text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET lock_timeout = '50s' AS $$
#variable_conflict use_column
DECLARE
    level integer := 0;
    fewest integer;
    held record;
    free record;
    top bigint;
BEGIN
    SELECT c.lo, c.hi INTO held FROM {claims} c WHERE c.bee = my_bee AND c.number = my_number FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF cardinality(took) > 0 THEN
        UPDATE {jobs} j
        SET state = 'COMPLETE', finished_at = now(), node = my_node, seconds = took[j.pos - first + 1] * 1e-6::float8
        WHERE j.pos BETWEEN greatest(first, held.lo) AND least(first + cardinality(took) - 1, held.hi)
          AND j.state = 'PENDING';
    END IF;
    LOOP
        SELECT r.hi, r.lo INTO free FROM {ranges} r
        WHERE r.attempts = level AND r.hi >= start AND (alone OR r.failed_on <> my_node)
        ORDER BY r.hi LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        SELECT r.hi, r.lo INTO free FROM {ranges} r
        WHERE r.attempts = level AND r.hi < start AND (alone OR r.failed_on <> my_node)
        ORDER BY r.hi LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        SELECT r.attempts INTO fewest FROM {ranges} r
        WHERE alone OR r.failed_on <> my_node
        ORDER BY r.attempts, r.hi LIMIT 1;
        EXIT WHEN NOT FOUND OR fewest <= level;
        level := fewest;
    END LOOP;
    top := least(free.hi, free.lo + wanted - 1);
    IF room IS NOT NULL THEN
        SELECT max(fit.pos) INTO top FROM (
            SELECT pos, sum(octet_length(job_id) + coalesce(octet_length(data::text), 0)) OVER (ORDER BY pos) AS bytes
            FROM {jobs} WHERE pos BETWEEN free.lo AND top) fit
        WHERE fit.bytes <= room;
    END IF;
    IF top IS NULL THEN
        UPDATE {claims} c SET number = my_number + 1, attempts = NULL, lo = NULL, hi = NULL, since = NULL
        WHERE c.bee = my_bee;
        RETURN QUERY SELECT CASE WHEN coalesce(fewest, free.hi) IS NULL THEN NULL ELSE 0::bigint END, NULL, NULL;
        RETURN;
    END IF;
    IF top < free.hi THEN
        UPDATE {ranges} r SET lo = top + 1 WHERE r.attempts = level AND r.hi = free.hi;
    ELSE
        DELETE FROM {ranges} r WHERE r.attempts = level AND r.hi = free.hi;
    END IF;
    UPDATE {claims} c SET number = my_number + 1, attempts = level, lo = free.lo, hi = top, since = now()
    WHERE c.bee = my_bee;
    RETURN QUERY
    SELECT j.pos, j.job_id, j.data::text FROM {jobs} j WHERE j.pos BETWEEN free.lo AND top ORDER BY j.pos LIMIT wanted;
END $$;

-- name: settle_and_claim
-- One round trip, one commit.
SELECT pos, job_id, data FROM {next}(%(bee)s, %(number)s, %(first)s, %(took)s, %(size)s, %(node)s, %(alone)s,
                                     (random() * %(total)s)::bigint, %(room)s);
