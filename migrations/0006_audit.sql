-- One row for every accepted change, written in its transaction. Rows are never edited.
-- Locks: creates a table, touches no row of another.
create table audit (
    id         uuid primary key,
    at         timestamptz not null,
    subject    text not null,
    role       text not null,
    -- Permission and verb: `writeTenants/create`.
    action     text not null,
    -- `cluster/<id>`, `tenant/<id>`, `application/<tenant id>/<name>`.
    target     text not null,
    tenant_id  uuid,
    request_id text not null
);
create index audit_by_target on audit (target, id);
create index audit_by_tenant on audit (tenant_id, id) where tenant_id is not null;
