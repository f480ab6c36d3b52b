-- Answers kept for 24 h, so that a repeated POST with the same Idempotency-Key changes nothing and is answered again.
-- Written in the transaction of the change it answers: both happened, or neither.
-- Locks: creates a table, touches no row of another.
create table idempotency (
    subject        text not null,
    key            text not null,
    -- SHA-256 of method, path with query, and body.
    request_sha256 bytea not null check (length(request_sha256) = 32),
    status         integer not null,
    -- [[name, value], ...]; secrets that are shown once are not in headers or body.
    headers        jsonb not null,
    body           text not null,
    created_at     timestamptz not null,
    expires_at     timestamptz not null,
    constraint idempotency_pkey primary key (subject, key)
);
create index idempotency_by_expiry on idempotency (expires_at);
