-- Billing events on their way to KN_BILL, written in the transaction of their ledger row.
-- Locks: creates a table, touches no row of another.
create table billing_outbox (
    sequence     bigint generated always as identity primary key,
    -- `<cluster>/<tenant>/<window>/<revision>`, never changes: subscribers count each id once.
    event_id     text not null constraint billing_outbox_event_key unique,
    tenant_id    uuid not null,
    cluster_id   text not null,
    kind         text not null check (kind in ('usage', 'gap', 'correction', 'period')),
    -- The exact CloudEvent.
    body         text not null,
    created_at   timestamptz not null,
    published_at timestamptz,
    -- Why it can never be published; empty otherwise. The row is for an administrator to look at.
    refused_reason text not null default ''
);
create index billing_outbox_unpublished on billing_outbox (sequence) where published_at is null and refused_reason = '';
create index billing_outbox_set_aside on billing_outbox (sequence) where refused_reason <> '';
