-- The counter of each cluster's receipt lists: a higher one wins.
-- Locks: creates a table, touches no row of another.
create table receipts (
    cluster_id text primary key references clusters (id),
    counter    bigint not null check (counter >= 1),
    issued_at  timestamptz not null
);
