-- Messages of clusters that can never be handled, one row each however often they are delivered. The store deletes the
-- oldest of a cluster when it has too many.
-- Locks: creates tables, touches no row of another.
create table dead_letters (
    id             uuid primary key,
    -- Empty for a message whose subject names no cluster.
    cluster_id     text not null,
    kind           text not null check (kind in ('outcome', 'status', 'usage', 'other')),
    payload_sha256 text not null,
    subject        text not null,
    reason         text not null,
    -- The begin of the message, and the size of the whole.
    payload        bytea not null,
    payload_bytes  bigint not null,
    times          bigint not null default 1,
    first_seen_at  timestamptz not null,
    last_seen_at   timestamptz not null,
    constraint dead_letters_once unique (cluster_id, payload_sha256)
);

create index dead_letters_newest on dead_letters (cluster_id, last_seen_at desc);
-- For their deletion on schedule.
create index dead_letters_oldest on dead_letters (last_seen_at);

-- How many messages of each cluster were deleted because it had too many.
create table dead_letters_dropped (
    cluster_id text primary key,
    dropped    bigint not null
);
