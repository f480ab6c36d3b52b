-- When the last list of receipts of each cluster was made.
-- Locks: creates a table, touches no row of another.
create table receipts (
    cluster_id text primary key references clusters (id),
    issued_at  timestamptz not null
);
