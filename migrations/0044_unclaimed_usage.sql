-- Usage of tenants that were not known on the cluster when its window came: after a restore of this database, of tenants that it
-- lost. A row moves into the ledger, with its billing event, once the tenant is known there.
-- Locks: creates a table, touches no row of another.
create table unclaimed_usage (
    cluster_id               text not null references clusters (id),
    tenant_id                uuid not null,
    tenant_name              text not null,
    window_start             timestamptz not null,
    seconds                  integer not null check (seconds > 0),
    revision                 integer not null check (revision >= 0),
    cpu_request_millicore_ms numeric(39, 0) not null check (cpu_request_millicore_ms >= 0),
    memory_request_byte_ms   numeric(39, 0) not null check (memory_request_byte_ms >= 0),
    pod_count_ms             numeric(39, 0) not null check (pod_count_ms >= 0),
    namespace_count_ms       numeric(39, 0) not null check (namespace_count_ms >= 0),
    application_count_ms     numeric(39, 0) not null check (application_count_ms >= 0),
    payload_sha256           text not null check (length(payload_sha256) = 64),
    quality                  text[] not null,
    -- The tenant was known, but not on this cluster: counted only if a recovery finds that the Manager had sent it there.
    tenant_was_known         boolean not null,
    received_at              timestamptz not null,
    constraint unclaimed_usage_pkey primary key (cluster_id, tenant_id, window_start, seconds, revision)
);
-- For their deletion on schedule.
create index unclaimed_usage_oldest on unclaimed_usage (received_at);
