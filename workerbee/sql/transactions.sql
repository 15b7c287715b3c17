-- How transactions begin. Here and not on connecting: a pooler gives every transaction another session. The isolation
-- is said since a server's default may be another one, in which bees that claim at once would fail each other.

-- name: begin
-- As long as it may take to read the caller's ids.
BEGIN ISOLATION LEVEL READ COMMITTED;

-- name: begin_bounded
-- With an end: a client that is gone without a word must not keep its locks, nor a server that was given up its work.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = '50s';
SET LOCAL idle_in_transaction_session_timeout = '30s';

-- name: bounded
-- The same for a single statement, sent with it.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = '50s';

-- name: declare_cursor
-- Stands before a query whose rows are too many to be held at once.
DECLARE wb_rows NO SCROLL CURSOR FOR

-- name: fetch_rows
-- The next of them.
FETCH FORWARD 1000 FROM wb_rows;

-- name: commit
-- All of it holds.
COMMIT;

-- name: rollback
-- None of it happened.
ROLLBACK;
