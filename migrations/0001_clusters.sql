-- Clusters: the desired state of each, its identity, and the counter that orders the commands to it.
-- Locks: creates a table, touches no row of another.
create table clusters (
    id               text primary key check (id ~ '^c[0-9a-hjkmnp-tv-z]{26}$'),
    name             text not null constraint clusters_name_key unique,
    datacenter       text not null default '',
    labels           jsonb not null default '{}',
    -- Desired components, in the JSON shape of a NovaClusterConfig's spec.components.
    components       jsonb not null default '{}',
    -- Version of the desired state, raised by each change; not to be confused with the revision of commands.
    generation       bigint not null default 1,
    epoch            bigint not null default 1 check (epoch >= 1),
    -- Raised in the transaction that writes a command, under a lock taken in id order: commit order is revision order.
    -- Never reused.
    revision_counter bigint not null default 0 check (revision_counter >= 0),
    -- UID of the kube-system namespace; null until enrolled.
    kubernetes_uid   text,
    -- Grows with each enrollment; 0 before the first.
    incarnation      bigint not null default 0 check (incarnation >= 0),
    -- Whether the Manager trusts it. Whether it is connected is derived from its session and heartbeats.
    state            text not null default 'pendingBootstrap'
                     check (state in ('pendingBootstrap', 'enrolled', 'quarantined', 'revoking', 'revoked', 'detached', 'purged')),
    -- Why it is in this state, when that is not what usually happens: one CamelCase word, and a sentence.
    state_reason     text not null default '',
    state_message    text not null default '',
    -- Whether its enrollments wait for an administrator.
    approval         text not null default 'automatic' check (approval in ('automatic', 'manual')),
    -- Since when it is quarantined: a token that was created before does not end that.
    quarantined_at   timestamptz,
    enrolled_at      timestamptz,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    created_by       text not null
);
create unique index clusters_kubernetes_uid_key on clusters (kubernetes_uid) where kubernetes_uid is not null;
