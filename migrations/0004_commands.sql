-- Commands: the outbox that the relay sends from, and the resource that the REST API shows. One row for both, so that the
-- two cannot disagree.
-- Locks: creates tables, touches no row of another.
create table commands (
    id               uuid primary key,
    cluster_id       text not null references clusters (id),
    revision         bigint not null check (revision >= 1),
    kind             text not null,
    object_key       text not null,
    -- Exact JSON that is signed and sent; for a delete the reference of the object.
    document         text not null,
    tenant_id        uuid references tenants (id),
    application_name text,
    -- Generation of the resource this command carries.
    generation       bigint not null,
    state            text not null default 'queued'
                     check (state in ('queued', 'sent', 'acknowledged', 'running', 'succeeded', 'failed', 'refused',
                                      'cancelled', 'superseded', 'expired')),
    reason           text not null default '',
    message          text not null default '',
    -- What it waits for; empty when it does not wait.
    waiting_for      text not null default '',
    created_by       text not null,
    -- W3C trace context of the request; a header of the message. It decides nothing.
    traceparent      text,
    -- Deadline of an operation: it does not begin later. Null: a document, or the cancellation of an operation.
    not_after        timestamptz,
    queued_at        timestamptz not null,
    sent_at          timestamptz,
    acknowledged_at  timestamptz,
    running_at       timestamptz,
    finished_at      timestamptz,
    -- What the cluster reported: [{"name": ..., "at": ...}].
    hops             jsonb not null default '[]',
    send_count       integer not null default 0,
    -- When the relay sends it (again); null means at once.
    next_send_at     timestamptz,
    stream           text,
    stream_seq       bigint,
    constraint commands_revision_key unique (cluster_id, revision),
    constraint commands_finished check (
        (finished_at is not null) = (state in ('succeeded', 'failed', 'refused', 'cancelled', 'superseded', 'expired')))
);
-- For the relay: open rows of a cluster in order.
create index commands_open on commands (cluster_id, revision)
    where state in ('queued', 'sent', 'acknowledged', 'running');
-- For expiry: operations that were not sent.
create index commands_deadline on commands (not_after) where state = 'queued' and not_after is not null;
-- For the history of one object.
create index commands_by_object on commands (cluster_id, object_key, revision);
-- For supersession: the open rows of one object. Whoever uses it asks for `(state = ...) is true`, which no index answers: few rows are
-- queued, as a rule, so that Postgres would else read all of those in `commands_by_state`, and an accepted command would cost more the
-- more wait.
create index commands_open_by_object on commands (cluster_id, object_key) where finished_at is null;
-- For lists. Ids are UUIDv7, so id order is time order.
create index commands_by_tenant on commands (tenant_id, id) where tenant_id is not null;
create index commands_by_cluster on commands (cluster_id, id);
create index commands_by_state on commands (state, id);
-- Of one tenant's application, and of all that have the name: without them a name that is rare is looked for in all history.
create index commands_by_application on commands (tenant_id, application_name, id) where application_name is not null;
create index commands_by_application_name on commands (application_name, id) where application_name is not null;
-- What went wrong on a cluster or for a tenant. A command that succeeds never enters them.
create index commands_unsuccessful_by_cluster on commands (cluster_id, state, id)
    where state in ('failed', 'refused', 'cancelled', 'superseded', 'expired');
create index commands_unsuccessful_by_tenant on commands (tenant_id, state, id)
    where state in ('failed', 'refused', 'cancelled', 'superseded', 'expired');

-- The highest revision of each cluster whose command was deleted on schedule: a cluster that names a revision up to it, and
-- whose row is gone, is not one that holds what Postgres never had. In no row of `clusters`, which requests and hellos lock.
create table pruned_commands (
    cluster_id text primary key references clusters (id),
    revision   bigint not null
);
