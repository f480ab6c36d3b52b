-- Applications and where each should run: one row per application and cluster.
-- Locks: creates tables, touches no row of another.
create table applications (
    id          uuid primary key,
    tenant_id   uuid not null references tenants (id),
    name        text not null,
    -- How it was requested: the typed form or a raw KubeVela Application.
    form        text not null check (form in ('typed', 'raw')),
    -- The typed form as it was accepted, so that a read returns it unchanged; null for raw ones.
    typed       jsonb,
    -- The parts of the Application that the caller decides. Text, not jsonb: numbers must keep their exact form.
    labels      text not null default '{}',
    annotations text not null default '{}',
    spec        text not null,
    generation  bigint not null default 1,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    created_by  text not null,
    -- When its delete was accepted; the row stays until every cluster reported that nothing of it is left.
    deleting_since timestamptz,
    constraint applications_name_key unique (tenant_id, name)
);

create table application_clusters (
    application_id uuid not null references applications (id),
    cluster_id     text not null references clusters (id),
    -- Generation of the application that was last sent to this cluster as a command.
    generation     bigint not null,
    created_at     timestamptz not null,
    -- The delete command whose success ends this row; null while the application should run here.
    delete_command uuid,
    constraint application_clusters_pkey primary key (application_id, cluster_id)
);
create index application_clusters_by_cluster on application_clusters (cluster_id, application_id);
-- Outcomes of delete commands.
create index application_clusters_by_delete on application_clusters (delete_command) where delete_command is not null;
