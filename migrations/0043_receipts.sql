-- The counter of each cluster's receipt lists; the cluster takes the list with the highest one.
-- Locks: creates a table, touches no row of another.
create table receipts (
    cluster_id text primary key references clusters (id),
    counter    bigint not null check (counter >= 1),
    issued_at  timestamptz not null
);
