-- What clusters report about their objects. The newest report wins; an object that is not mentioned stays as it is.
-- Locks: creates a table, touches no row of another.
create table observed (
    cluster_id text not null references clusters (id),
    object_key text not null,
    epoch      bigint not null,
    session    bigint not null,
    counter    bigint not null,
    -- Newest revision of this object that the conditions speak about.
    revision   bigint not null,
    -- The cluster reports that the object no longer exists.
    absent     boolean not null,
    -- [{"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}]
    conditions jsonb not null default '[]',
    detail     jsonb not null default '{}',
    -- The cluster's time of the report.
    as_of      timestamptz not null,
    primary key (cluster_id, object_key)
);
