-- The ledger: what each tenant used on each cluster in each window. Rows are added, never edited; a correction
-- is a new revision. Quantities are whole numbers: millicore·ms, byte·ms, count·ms.
-- Locks: creates a table, touches no row of another.
create table ledger (
    cluster_id               text not null references clusters (id),
    -- No foreign key: usage of a tenant that was deleted since is still billed.
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
    -- Hex SHA-256 of the record.
    payload_sha256           text not null check (length(payload_sha256) = 64),
    -- `gap`: part of the window was not observed; `skew`: the clocks were more than two seconds apart.
    quality                  text[] not null,
    coverage_ms              bigint not null,
    gaps                     jsonb not null,
    incarnation              text not null,
    received_at              timestamptz not null,
    constraint ledger_pkey primary key (cluster_id, tenant_id, window_start, seconds, revision)
);
create index ledger_by_time on ledger (window_start, cluster_id, tenant_id);
create index ledger_by_tenant on ledger (tenant_id, window_start);
