-- The session of each cluster: opened by a hello, kept alive by heartbeats. And the lane: which Manager sends to it.
-- Locks: creates tables, touches no row of another.
create table sessions (
    cluster_id         text primary key references clusters (id),
    -- Rises with every hello; orders status reports within an epoch.
    session            bigint not null check (session >= 1),
    incarnation        text not null,
    boot_id            text not null,
    lease_term         bigint not null,
    operator_version   text not null default '',
    kubernetes_version text not null default '',
    nodes              integer not null default 0,
    highest_revision   bigint not null default 0,
    -- Cluster clock minus Manager clock.
    clock_offset_ms    bigint not null default 0,
    opened_at          timestamptz not null,
    heard_at           timestamptz not null,
    -- Why the last hello was not accepted; empty when it was.
    refused_reason     text not null default ''
);

create table cluster_queues (
    cluster_id text primary key references clusters (id),
    owner      text not null,
    until      timestamptz not null
);
