-- The audit log: a record for every accepted change, for every command that it caused and for every command that ended, in a
-- hash chain (docs/operations/audit.md). A record is written to `audit_pending` in the transaction of what it describes; the
-- Manager moves it into the chain within a second (docs/adr/0010).
-- Locks: creates tables, touches no row of another.
create table audit_pending (
    id              bigint generated always as identity primary key,
    at              timestamptz not null,
    -- Who did it: a caller, a cluster or the Manager.
    subject         text not null,
    -- Role of the caller, `cluster` or `manager`.
    role            text not null,
    -- Permission and verb: `writeTenants/create`; `command/enqueued`; `command/succeeded`; `audit/prune`.
    action          text not null,
    -- `cluster/<id>`, `tenant/<id>`, `application/<tenant id>/<name>`, `cluster-config/default`.
    target          text not null,
    tenant_id       uuid,
    request_id      text not null default '',
    command_id      uuid,
    -- Empty for a record that is about no command.
    cluster_id      text not null default '',
    revision        bigint,
    -- SHA-256 of the command's document, in hex.
    document_sha256 text not null default '',
    detail          text not null default ''
);

create table audit (
    position        bigint primary key check (position >= 1),
    at              timestamptz not null,
    subject         text not null,
    role            text not null,
    action          text not null,
    target          text not null,
    tenant_id       uuid,
    request_id      text not null,
    command_id      uuid,
    cluster_id      text not null,
    revision        bigint,
    document_sha256 text not null,
    detail          text not null,
    -- Of the record before this one, in hex; 64 zeros before the first.
    previous_sha256 text not null check (length(previous_sha256) = 64),
    -- Of `previous_sha256` and this record's content, in hex.
    sha256          text not null check (length(sha256) = 64)
);
create index audit_by_target on audit (target, position);
create index audit_by_tenant on audit (tenant_id, position) where tenant_id is not null;
create index audit_by_command on audit (command_id, position) where command_id is not null;

-- Where the chain begins: the last record that was deleted on schedule, and its hash. Whoever writes the chain holds this row.
create table audit_start (
    singleton boolean primary key default true check (singleton),
    position  bigint not null,
    sha256    text not null check (length(sha256) = 64)
);
insert into audit_start (position, sha256) values (0, repeat('0', 64));

create function audit_is_append_only() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('kubenova.audit_prune', true) = 'on' then
        return old;
    end if;
    raise exception 'records of the audit log are neither changed nor deleted'
        using errcode = 'insufficient_privilege', hint = 'the Manager deletes old ones on schedule: retention.auditDays';
end $$;
create trigger audit_append_only before update or delete on audit for each row execute function audit_is_append_only();
create trigger audit_not_truncated before truncate on audit for each statement execute function audit_is_append_only();
create trigger audit_pending_unchanged before update on audit_pending for each row execute function audit_is_append_only();
