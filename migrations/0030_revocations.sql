-- Revocations of user JWTs at the broker, and the account JWTs that carry them. A revocation is in force once every server of the
-- broker has the account JWT that names it.
-- Locks: creates tables, touches no row of another.
create table revocations (
    -- Whose JWTs are void.
    nkey_public  text primary key,
    -- The account that the user belongs to.
    account      text not null check (account in ('EDGE', 'BILL', 'OPS')),
    cluster_id   text references clusters (id),
    -- Why: `Revoked`, `Replaced` by a later incarnation, `Detached`, `Purged`.
    reason       text not null,
    -- JWTs that were issued up to this second are void; never before the last one that was issued.
    void_up_to  timestamptz not null,
    -- When the last of those JWTs expires: after that the revocation is dropped, because an account JWT has a largest size.
    expires_at   timestamptz not null,
    requested_at timestamptz not null,
    -- When every server had it.
    effective_at timestamptz
);
create index revocations_pending on revocations (account) where effective_at is null;
create index revocations_by_cluster on revocations (cluster_id, requested_at) where cluster_id is not null;

-- The account JWTs of the broker as they were signed last. The time of issue of each only rises.
create table account_jwts (
    account       text primary key,
    -- Of who signed what, without the time.
    claims_sha256 bytea not null check (length(claims_sha256) = 32),
    issued_at     timestamptz not null,
    jwt           text not null,
    -- Servers that did not have it when they were asked last, with what they said; empty when all have it.
    behind        text not null default '',
    -- When all servers had it.
    verified_at   timestamptz
);
