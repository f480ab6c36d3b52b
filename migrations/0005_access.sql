-- Service tokens of the REST API. Only a hash of each is stored.
-- Locks: creates a table, touches no row of another.
create table api_tokens (
    id           uuid primary key,
    -- SHA-256 of the whole token text. A token is 256 random bits, so a plain hash cannot be reversed by guessing.
    token_sha256 bytea not null constraint api_tokens_hash_key unique check (length(token_sha256) = 32),
    subject      text not null,
    role         text not null check (role in ('admin', 'ops', 'tenantOwner', 'projectDev', 'readOnly', 'billing')),
    -- Null means every tenant.
    tenant_id    uuid references tenants (id),
    created_at   timestamptz not null,
    created_by   text not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    constraint api_tokens_tenant_roles check (role not in ('tenantOwner', 'projectDev') or tenant_id is not null),
    constraint api_tokens_global_roles check (role not in ('admin', 'ops') or tenant_id is null)
);
create index api_tokens_by_tenant on api_tokens (tenant_id) where tenant_id is not null;
