-- Usage windows as clusters sealed them, and the windows that conflict with one of them.
-- Locks: creates tables, touches no row of another.

create table usage_windows (
    cluster_id               text not null references clusters (id),
    window_start             timestamptz not null,
    seconds                  integer not null check (seconds > 0),
    revision                 integer not null check (revision >= 0),
    -- Hex SHA-256 of the manifest's bytes. The same again is a replay, another one a conflict.
    manifest_sha256          text not null check (length(manifest_sha256) = 64),
    previous_manifest_sha256 text not null,
    manifest                 bytea not null,
    manifest_signature       text not null,
    record_count             integer not null,
    coverage_ms              bigint not null,
    -- [{"reason", "startMs", "endMs", "bound": {meter: text}}]
    gaps                     jsonb not null,
    clock_offset_ms          bigint not null,
    incarnation              text not null,
    sealed_at                text not null,
    received_at              timestamptz not null,
    constraint usage_windows_pkey primary key (cluster_id, window_start, seconds, revision)
);
create index usage_windows_by_receipt on usage_windows (cluster_id, received_at);

-- Another manifest for a window in the ledger, or a window that overlaps one. Never counted; a person has to decide.
create table usage_conflicts (
    cluster_id         text not null references clusters (id),
    window_start       timestamptz not null,
    seconds            integer not null,
    revision           integer not null,
    manifest_sha256    text not null,
    manifest           bytea not null,
    manifest_signature text not null,
    records            bytea not null,
    first_seen_at      timestamptz not null,
    constraint usage_conflicts_pkey primary key (cluster_id, window_start, seconds, revision, manifest_sha256)
);
