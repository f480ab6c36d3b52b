-- Enrollment tokens, by the hash of their secret, the attempts to use them, and renewals.
-- Locks: creates tables, touches no row of another.
create table enrollments (
    id            uuid primary key,
    cluster_id    text not null references clusters (id),
    secret_sha256 bytea not null constraint enrollments_secret_key unique check (length(secret_sha256) = 32),
    created_at    timestamptz not null,
    created_by    text not null,
    expires_at    timestamptz not null,
    used_at       timestamptz,
    -- UID of the kube-system namespace and public keys of the installation that used it.
    used_by_uid   text,
    used_keys     text,
    -- The response, JSON without secrets: an Operator that lost it gets it again.
    answer        text,
    -- By an administrator before it was used, or because the cluster was purged.
    revoked_at    timestamptz,
    revoked_by    text not null default '',
    -- How often another installation showed it than the one it belongs to, and the last time.
    second_uses     bigint not null default 0,
    second_use_at   timestamptz,
    second_use_peer text not null default ''
);
create index enrollments_by_cluster on enrollments (cluster_id, id);
create index enrollments_used_twice on enrollments (cluster_id, second_use_at) where second_use_at is not null;

-- Tokens that were used twice, of clusters of which no installation has enrolled with another token since.
create view unsettled_second_uses as
    select e.cluster_id, e.id, e.second_uses, e.second_use_at, e.second_use_peer from enrollments e
    where e.second_use_at is not null
      and not exists (select from enrollments n where n.cluster_id = e.cluster_id and n.used_at > e.second_use_at);

create table enrollment_attempts (
    id            uuid primary key,
    -- What was asked for: an enrollment with a token, or a renewal, of which those are kept whose signature was verified.
    kind          text not null check (kind in ('enrollment', 'renewal')),
    -- Null when no token has the secret, and of a renewal.
    enrollment_id uuid references enrollments (id),
    cluster_id    text references clusters (id),
    at            timestamptz not null,
    -- `accepted`, or the reason of the refusal.
    outcome       text not null,
    message       text not null default '',
    peer          text not null default ''
);
create index enrollment_attempts_by_cluster on enrollment_attempts (cluster_id, id) where cluster_id is not null;
create index enrollment_attempts_by_token on enrollment_attempts (enrollment_id, id) where enrollment_id is not null;
