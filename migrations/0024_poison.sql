-- Messages of clusters that can never be handled, once each however often they come. The newest of each cluster stay.
create table poison (
    cluster_id     text not null,
    payload_sha256 text not null,
    subject        text not null,
    reason         text not null,
    payload        bytea not null,
    times          bigint not null default 1,
    first_seen_at  timestamptz not null,
    last_seen_at   timestamptz not null,
    constraint poison_pkey primary key (cluster_id, payload_sha256)
);

create index poison_newest on poison (cluster_id, last_seen_at desc);
