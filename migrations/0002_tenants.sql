-- Tenants and their placements (a tenant on a cluster). Everything else refers to a tenant by id, never by name.
-- Locks: creates tables, touches no row of another.
create table tenants (
    id           uuid primary key,
    name         text not null constraint tenants_name_key unique,
    quota_cpu    text not null,
    quota_memory text not null,
    quota_pods   bigint not null check (quota_pods >= 0),
    pod_security text not null default 'baseline' check (pod_security in ('baseline', 'restricted')),
    generation   bigint not null default 1,
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    created_by   text not null
);

create table placements (
    tenant_id  uuid not null references tenants (id),
    cluster_id text not null references clusters (id),
    created_at timestamptz not null,
    created_by text not null,
    constraint placements_pkey primary key (tenant_id, cluster_id)
);
create index placements_by_cluster on placements (cluster_id, tenant_id);
