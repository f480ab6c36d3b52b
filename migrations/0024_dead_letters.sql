-- Messages of clusters that can never be handled, one row each however often they are delivered. The store deletes the
-- oldest of a cluster when it has too many.
-- Locks: creates a table, touches no row of another.
create table dead_letters (
    cluster_id     text not null,
    payload_sha256 text not null,
    subject        text not null,
    reason         text not null,
    payload        bytea not null,
    times          bigint not null default 1,
    first_seen_at  timestamptz not null,
    last_seen_at   timestamptz not null,
    constraint dead_letters_pkey primary key (cluster_id, payload_sha256)
);

create index dead_letters_newest on dead_letters (cluster_id, last_seen_at desc);
-- For their deletion on schedule.
create index dead_letters_oldest on dead_letters (last_seen_at);
