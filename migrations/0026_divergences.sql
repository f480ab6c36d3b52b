-- Clusters that hold commands which this database does not, because it was restored to an earlier point, and what they hold:
-- material for `kubenova-manager recover`. Deleted when the cluster is in session again.
-- Locks: creates tables, touches no row of another.
create table divergences (
    cluster_id       text primary key references clusters (id),
    -- The first hello that was refused.
    since            timestamptz not null,
    -- What the last one said: the highest epoch and the highest revision, with its command, and the hash of the listing.
    epoch            bigint not null,
    highest_revision bigint not null,
    highest_command  uuid,
    listing_sha256   text not null,
    -- The whole listing of that hello is in `diverged_records`.
    is_listed        boolean not null default false
);

create table diverged_records (
    cluster_id      text not null references divergences (cluster_id) on delete cascade,
    object_key      text not null,
    kind            text not null,
    revision        bigint not null,
    command_id      uuid not null,
    document_sha256 text not null,
    -- This database does not have the command: the bytes that the Manager once signed are wanted.
    is_lacking      boolean not null,
    signature       text not null default '',
    total_bytes     bigint not null default 0,
    -- What has come of them so far.
    body            bytea not null default '',
    is_verified     boolean not null default false,
    -- Why they cannot be used; empty otherwise.
    problem         text not null default '',
    primary key (cluster_id, object_key)
);
