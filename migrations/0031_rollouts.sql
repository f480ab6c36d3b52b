-- Rollouts: one change of a component for many clusters, in waves. Whatever a Manager needs for the next step stands here, so that any
-- of them may take it, also after a restart.
-- Locks: creates tables, touches no row of another.
create table rollouts (
    id                        uuid primary key,
    component                 text not null check (component in ('capsule', 'capsule-proxy', 'kubevela')),
    -- What it changes, as a request would; null in a rollback, where it differs from cluster to cluster.
    change                    jsonb,
    -- The rollout that it takes back; forgotten with that one.
    rollback_of               uuid references rollouts (id) on delete set null,
    canary                    boolean not null,
    max_unavailable           integer not null check (max_unavailable >= 1),
    max_failures              integer not null check (max_failures >= 0),
    pause_seconds             bigint not null check (pause_seconds >= 0),
    wait_for_resume           boolean not null,
    progress_deadline_seconds bigint not null check (progress_deadline_seconds >= 1),
    offline                   text not null check (offline in ('wait', 'skip')),
    waves                     integer not null check (waves >= 1),
    state                     text not null
                              check (state in ('running', 'paused', 'stopped', 'cancelling', 'cancelled', 'completed')),
    reason                    text not null,
    message                   text not null,
    -- The wave whose turn it is, from 0.
    wave                      integer not null default 0 check (wave >= 0),
    -- Since when all of this wave is healthy.
    wave_done_at              timestamptz,
    -- Failures at the time when a person resumed it.
    accepted_failures         integer check (accepted_failures >= 0),
    -- When a Manager looks at it again; null once it has ended.
    next_step_at              timestamptz,
    created_at                timestamptz not null,
    created_by                text not null,
    ended_at                  timestamptz,
    constraint rollouts_ended check ((ended_at is not null) = (state in ('cancelled', 'completed'))),
    constraint rollouts_followed check ((next_step_at is null) = (ended_at is not null))
);
create index rollouts_due on rollouts (next_step_at) where next_step_at is not null;
create index rollouts_ended_at on rollouts (ended_at) where ended_at is not null;

-- The clusters of each rollout, in the order in which their turn comes.
create table rollout_clusters (
    rollout_id      uuid not null references rollouts (id) on delete cascade,
    cluster_id      text not null references clusters (id),
    position        integer not null,
    wave            integer not null check (wave >= 0),
    component       text not null,
    -- What is changed there.
    change          jsonb not null,
    -- What was wanted of the component there before; null until it was changed.
    before          jsonb,
    state           text not null default 'pending' check (state in ('pending', 'updating', 'succeeded', 'failed', 'skipped')),
    reason          text not null default '',
    message         text not null default '',
    -- Of the command that carries the change.
    revision        bigint,
    begun_at        timestamptz,
    ended_at        timestamptz,
    unhealthy_since timestamptz,
    primary key (rollout_id, cluster_id),
    constraint rollout_clusters_ended check ((ended_at is null) = (state in ('pending', 'updating')))
);
-- Two rollouts never change one component of one cluster at once.
create unique index rollout_clusters_open_key on rollout_clusters (cluster_id, component) where ended_at is null;
