-- Anti-entropy: what the inbox of each cluster holds beside what this database says it holds.
-- Locks: creates tables and a function, touches no row of another.

-- The last reported listing of each cluster, and what came of comparing it.
create table listings (
    cluster_id        text primary key references clusters (id),
    -- Hash over key, revision and document of every record whose last command is an apply.
    reported_sha256   text not null,
    -- When the cluster first reported this hash.
    reported_at       timestamptz not null,
    -- When both sides were last seen to hold the same; null: never.
    in_sync_at        timestamptz,
    -- Since when they differ; null: they did not when they were last compared.
    differs_since     timestamptz,
    -- Nothing follows from the last comparison: commands on their way may explain the difference, or what is wanted there was replaced
    -- since.
    is_unsettled      boolean not null default false,
    -- When they were last compared.
    compared_at       timestamptz,
    -- When the next heartbeat is compared; null: at once.
    compare_at        timestamptz,
    -- The session in which the cluster was asked for its listing; null: it is not awaited.
    wanted_in_session bigint,
    -- The last listing that was taken in, and how many keys had each finding.
    exchanged_at      timestamptz,
    findings          jsonb not null default '{}'
);

-- Keys that a cluster holds and this database does not know, or knows an earlier command of. Shown and kept.
create table unknown_objects (
    cluster_id      text not null references clusters (id),
    object_key      text not null,
    -- Unknown or Ahead.
    finding         text not null check (finding in ('Unknown', 'Ahead')),
    revision        bigint not null,
    document_sha256 text not null,
    first_seen_at   timestamptz not null,
    last_seen_at    timestamptz not null,
    primary key (cluster_id, object_key)
);

-- For each key of a document that was ever commanded on a cluster: whether its commands have ended, whether one is on its way there,
-- and the last one that the cluster acknowledged. Goes from key to key by the index commands_by_object, so that history costs nothing; of all the operations, whose
-- keys end in digits of a UUID, it meets one.
create function cluster_documents(cluster text)
returns table (object_key text, is_open boolean, is_pending boolean, last_state text, changed_at timestamptz,
               command_id uuid, revision bigint, is_delete boolean, document_sha256 text)
language sql stable as $$
    with recursive keys as (
        (select c.object_key from commands c where c.cluster_id = cluster order by c.object_key limit 1)
        union all
        select (select c.object_key from commands c where c.cluster_id = cluster
                   and c.object_key > case when k.object_key like 'operation/%' then 'operation/z' else k.object_key end
                order by c.object_key limit 1)
        from keys k where k.object_key is not null
    )
    select k.object_key,
           exists (select from commands c where c.cluster_id = cluster and c.object_key = k.object_key
                      and c.state in ('queued', 'sent', 'acknowledged', 'running')),
           -- The cluster may have stored it, or will in a moment. What waits for something else may wait for long.
           exists (select from commands c where c.cluster_id = cluster and c.object_key = k.object_key
                      and c.state in ('queued', 'sent') and c.waiting_for = ''),
           last.state, greatest(last.finished_at, last.acknowledged_at, held.acknowledged_at),
           held.id, held.revision, held.kind like 'delete-%',
           encode(sha256(convert_to(held.document, 'UTF8')), 'hex')
    from keys k
    cross join lateral (select c.state, c.finished_at, c.acknowledged_at from commands c
                        where c.cluster_id = cluster and c.object_key = k.object_key
                        order by c.revision desc limit 1) last
    left join lateral (select c.id, c.revision, c.kind, c.document, c.acknowledged_at from commands c
                       where c.cluster_id = cluster and c.object_key = k.object_key and c.acknowledged_at is not null
                       order by c.revision desc limit 1) held on true
    where k.object_key is not null and k.object_key not like 'operation/%'
$$;
