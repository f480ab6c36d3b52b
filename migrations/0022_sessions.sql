-- The session of each cluster, opened by a hello and kept alive by heartbeats; and hellos that were refused.
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
    -- Id of the Manager's keys that the cluster's credentials were issued with; empty when it did not say.
    key_set_id         text not null default '',
    highest_revision   bigint not null default 0,
    -- Cluster clock minus Manager clock.
    clock_offset_ms    bigint not null default 0,
    opened_at          timestamptz not null,
    last_heartbeat_at  timestamptz not null,
    -- When the PostgreSQL server was started that recorded the hello. A server that was started since may be one that was
    -- restored to an earlier point: then nothing is sent before the next hello, which compares both sides and leaves
    -- nothing undelivered of before. (A dump that is restored into a running server is noticed by the revision in the heartbeats.)
    recorded_by        timestamptz not null,
    -- Another Operator that says hello with a lease term no higher than that of the session, and since when. When both go on, the
    -- cluster's credentials are in use by two Kubernetes clusters.
    contender_boot_id  text,
    contender_since    timestamptz
);

-- Sessions that the running server has confirmed. Whether the heartbeat is fresh is decided by whoever asks.
create view confirmed_sessions as select * from sessions where recorded_by = pg_postmaster_start_time();

-- The last hello of each cluster that was refused. Beside the session, never over it: whoever sends a hello that is
-- refused does not end the session of the cluster.
create table hello_refusals (
    cluster_id text primary key references clusters (id),
    boot_id    text not null,
    reason     text not null,
    message    text not null,
    refused_at timestamptz not null
);
