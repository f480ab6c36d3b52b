-- Responses stored for 24 h, so that a repeated request with the same Idempotency-Key changes nothing and gets the first
-- response again. Written in the transaction of the change: both happened, or neither.
-- Locks: creates a table, touches no row of another.
create table idempotency (
    -- Role, tenant and subject: tokens with one subject may be limited to different tenants.
    caller         text not null,
    key            text not null,
    -- SHA-256 of method, path with query, and body.
    request_sha256 bytea not null check (length(request_sha256) = 32),
    status         integer not null,
    -- [[name, value], ...]; holds no secret that is shown once.
    headers        jsonb not null,
    body           text not null,
    created_at     timestamptz not null,
    expires_at     timestamptz not null,
    constraint idempotency_pkey primary key (caller, key)
);
create index idempotency_by_expiry on idempotency (expires_at);
