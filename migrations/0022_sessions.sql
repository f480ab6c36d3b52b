-- The session of each cluster, opened by a hello and kept alive by heartbeats, and the lease on its queue of commands.
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
    highest_revision   bigint not null default 0,
    -- Cluster clock minus Manager clock.
    clock_offset_ms    bigint not null default 0,
    opened_at          timestamptz not null,
    last_heartbeat_at  timestamptz not null,
    -- Why the last hello was refused; empty when it was accepted.
    refused_reason     text not null default ''
);

-- Which Manager sends the commands of a cluster, and until when unless it renews the lease.
create table cluster_queues (
    cluster_id text primary key references clusters (id),
    owner      text not null,
    until      timestamptz not null
);
