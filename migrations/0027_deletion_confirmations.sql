-- The limit on deletes of tenants, and the statements of persons that let more of them pass.
-- Locks: creates a table, an index and a function, touches no row of another.
create table deletion_confirmations (
    id         uuid primary key,
    cluster_id text not null references clusters (id),
    tenant_ids uuid[] not null,
    -- The exact text that was signed, and by whom: `<key id>:<base64>`; empty for the word of the caller alone.
    statement  text not null,
    signature  text not null,
    not_after  timestamptz not null,
    created_at timestamptz not null,
    created_by text not null
);
create index deletion_confirmations_by_cluster on deletion_confirmations (cluster_id, not_after);

create index commands_tenant_deletes on commands (cluster_id, sent_at) where kind = 'delete-tenant';

-- Whether a queued delete of a tenant may be sent: of each cluster at most five, or a tenth of its tenants, within ten minutes, in the
-- order of revisions; more only when a person confirmed them.
create function tenant_delete_may_pass(cluster text, command_revision bigint, tenant uuid, present timestamptz) returns boolean
language sql stable as $$
    select exists (select from deletion_confirmations d
                   where d.cluster_id = cluster and d.not_after >= present and tenant = any (d.tenant_ids))
        or (select count(*) from commands e
            where e.cluster_id = cluster and e.kind = 'delete-tenant'
              and (e.sent_at > present - interval '10 minutes' or e.state = 'queued' and e.revision < command_revision))
           < greatest(5, ceil(((select count(*) from placements p where p.cluster_id = cluster)
                               + (select count(*) from commands e where e.cluster_id = cluster and e.kind = 'delete-tenant'
                                     and e.sent_at > present - interval '10 minutes')) / 10.0))
$$;
