-- What the command asks for besides.

-- name: read_job
-- One job's data, and how it stands.
SELECT state, data::text, errors::integer + crashes + losses FROM {jobs} WHERE job_id = %(job_id)s;
