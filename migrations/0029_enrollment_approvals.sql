-- Installations that wait, or waited, for an administrator's approval: at most one of each token.
-- Locks: creates a table, touches no row of another.
create table enrollment_approvals (
    enrollment_id      uuid primary key references enrollments (id),
    -- The installation: UID of the kube-system namespace and public keys.
    kubernetes_uid     text not null,
    keys               text not null,
    -- Of the keys, as people compare it.
    fingerprint        text not null,
    -- What it says of itself: shown, and trusted for nothing.
    operator_version   text not null,
    kubernetes_version text not null,
    nodes              integer,
    peer               text not null,
    requested_at       timestamptz not null,
    last_requested_at  timestamptz not null,
    -- Null while it waits.
    verdict            text check (verdict in ('approved', 'rejected')),
    decided_at         timestamptz,
    decided_by         text not null default '',
    reason             text not null default '',
    check ((verdict is null) = (decided_at is null))
);
create index enrollment_approvals_waiting on enrollment_approvals (requested_at) where verdict is null;
