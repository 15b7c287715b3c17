-- The tables of a jobset, made in one transaction.

-- name: find_shared_tables
-- Whether the tables that all jobsets share exist, the latest of them included.
SELECT to_regclass('wb_progress') IS NOT NULL;

-- name: lock_shared_tables
-- Hold off others who would create the shared tables: CREATE TABLE IF NOT EXISTS alone fails when two run at once.
SELECT pg_advisory_xact_lock(7738130262);

-- name: create_shared_tables
-- What all jobsets of a database share. One underscore: no jobset's table, wb__<jobset_id>, can have such a name.
CREATE TABLE IF NOT EXISTS wb_jobsets (
    jobset_id text COLLATE "C" PRIMARY KEY,
    total bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL
);
CREATE SEQUENCE IF NOT EXISTS wb_bees;
CREATE TABLE IF NOT EXISTS wb_nodes (
    node bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    jobset_id text COLLATE "C" NOT NULL,
    host text NOT NULL,
    machine text NOT NULL,
    pid integer NOT NULL,
    keeper_pid integer,
    lease interval NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
) WITH (fillfactor = 50);
ALTER TABLE wb_nodes ADD COLUMN IF NOT EXISTS stop text CHECK (stop IN ('drain', 'now'));
CREATE INDEX IF NOT EXISTS wb_nodes_of_jobset ON wb_nodes (jobset_id);
CREATE TABLE IF NOT EXISTS wb_progress (
    node bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    bees integer NOT NULL,
    complete bigint NOT NULL,
    failed bigint NOT NULL,
    slowest double precision,
    PRIMARY KEY (node, at)
);
CREATE TABLE IF NOT EXISTS wb_failures (
    failure bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    jobset_id text COLLATE "C" NOT NULL,
    pos bigint NOT NULL,
    job_id text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    kind text NOT NULL,
    type text NOT NULL,
    message text NOT NULL,
    stack text NOT NULL,
    exit_code integer,
    log text NOT NULL,
    final boolean NOT NULL,
    node bigint,
    host text NOT NULL,
    pid integer NOT NULL,
    bee bigint NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    seconds double precision
);
CREATE INDEX IF NOT EXISTS wb_failures_of_job ON wb_failures (jobset_id, pos);
CREATE INDEX IF NOT EXISTS wb_failures_final ON wb_failures (jobset_id) WHERE final;

-- name: add_jobset
-- Make this transaction the jobset's creator; waits for another that is at it, and yields nothing when that commits.
INSERT INTO wb_jobsets (jobset_id, created_by) VALUES (%(jobset_id)s, %(created_by)s)
ON CONFLICT DO NOTHING
RETURNING jobset_id;

-- name: find_jobset
-- How many jobs the jobset has, if it exists; and how transactions are isolated here if they do not say it.
SELECT total, current_setting('default_transaction_isolation') FROM wb_jobsets WHERE jobset_id = %(jobset_id)s;

-- name: create_jobs
-- One row per job; settled by one update that stays on its page: no index names a column that changes, and a page
-- keeps room for every row's second version.
CREATE TABLE {jobs} (
    pos bigint NOT NULL,
    job_id text COLLATE "C" NOT NULL,
    data json,
    state text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'COMPLETE', 'FAILED')),
    errors smallint NOT NULL DEFAULT 0,
    crashes smallint NOT NULL DEFAULT 0,
    losses smallint NOT NULL DEFAULT 0,
    finished_at timestamptz,
    node bigint,
    seconds real,
    CHECK ((state = 'PENDING') = (finished_at IS NULL))
) WITH (fillfactor = 45);

-- name: create_staging
-- Where the ids arrive, in the order given.
CREATE TEMPORARY TABLE wb_staging (job_id text COLLATE "C" NOT NULL, data json) ON COMMIT DROP;

-- name: copy_staging
-- Stream ids and data in.
COPY pg_temp.wb_staging (job_id, data) FROM STDIN;

-- name: deal_jobs
-- Give every job a place in one random order, and store the rows in it.
INSERT INTO {jobs} (pos, job_id, data)
SELECT row_number() OVER (ORDER BY random()), job_id, data FROM pg_temp.wb_staging;

-- name: index_positions
-- Find a job by its position.
ALTER TABLE {jobs} ADD CONSTRAINT {jobs_pos} PRIMARY KEY (pos);

-- name: index_job_ids
-- Find a job by its id, and refuse an id given twice.
ALTER TABLE {jobs} ADD CONSTRAINT {jobs_id} UNIQUE (job_id);

-- name: create_ranges
-- Pending work: ranges of positions, all of whose jobs have failed so many attempts, the last one on node `failed_on`
-- if that is to be known. A claim takes from the low end, so that the key stays and the update does not touch the index.
CREATE TABLE {ranges} (
    attempts integer NOT NULL,
    hi bigint NOT NULL,
    lo bigint NOT NULL,
    failed_on bigint NOT NULL DEFAULT 0,
    CHECK (lo <= hi),
    CONSTRAINT {ranges_key} PRIMARY KEY (attempts, hi)
) WITH (fillfactor = 50);

-- name: create_claims
-- One row per bee: the positions it holds, and the number of that claim. And a second one, with the negative number, for a
-- bee that claims ahead.
CREATE TABLE {claims} (
    bee bigint NOT NULL,
    number bigint NOT NULL DEFAULT 0,
    attempts integer,
    lo bigint,
    hi bigint,
    since timestamptz,
    node bigint NOT NULL,
    pid integer NOT NULL,
    CHECK ((lo IS NULL) = (hi IS NULL)),
    CONSTRAINT {claims_key} PRIMARY KEY (bee)
) WITH (fillfactor = 30);

-- name: create_view
-- Every job with its state, CLAIMED and by whom included, for a person to look at.
CREATE VIEW {view} AS
SELECT j.job_id,
       CASE WHEN j.state = 'PENDING' AND c.bee IS NOT NULL THEN 'CLAIMED' ELSE j.state END AS state,
       j.data, j.errors, j.crashes, j.losses, coalesce(j.finished_at, c.since) AS since, j.seconds, n.host, abs(c.bee) AS bee
FROM {jobs} j
LEFT JOIN {claims} c ON j.state = 'PENDING' AND j.pos BETWEEN c.lo AND c.hi
LEFT JOIN wb_nodes n ON n.node = coalesce(c.node, j.node);

-- name: deal_ranges
-- All jobs are pending: single ones while they are few, so that bees do not queue for the same row; later as many to a
-- range as a bee may claim.
INSERT INTO {ranges} (attempts, hi, lo)
SELECT 0, least(lo + width - 1, total), lo
FROM (SELECT %(total)s::bigint AS total, greatest(1, least(%(most)s, %(total)s / 512))::bigint AS width) size,
     generate_series(1, total, width) lo;

-- name: count_jobset
-- Keep the number of jobs, which never changes here.
UPDATE wb_jobsets SET total = %(total)s WHERE jobset_id = %(jobset_id)s;

-- name: analyze_tables
-- Tell the planner what has just been loaded, so that the first claims find their index.
ANALYZE {jobs}, {ranges};
