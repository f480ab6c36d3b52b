-- Identities: one for each incarnation of a cluster. Old ones stay, since usage reports are verified by the key that sealed them.
-- Locks: creates a table, touches no row of another.
create table identities (
    cluster_id  text not null references clusters (id),
    -- That of the enrollment; the cluster's row names the current one.
    incarnation bigint not null check (incarnation > 0),
    -- Made in the cluster, and fixed for the incarnation.
    nkey_public text not null,
    -- X25519 public key that clients seal to, base64, and the nkey's signature over it.
    sealing_key           text,
    sealing_key_signature text,
    enrolled_at timestamptz not null,
    -- Of certificate and user JWT: when they were last issued, and when the first of them expires.
    issued_at   timestamptz not null,
    expires_at  timestamptz not null,
    -- When the last user JWT expires that was issued to this nkey: until then it has to stay revoked, if it is.
    user_jwt_expires_at timestamptz not null,
    -- When its credentials were revoked. They are never issued again, whatever becomes of the cluster.
    revoked_at  timestamptz,
    constraint identities_pkey primary key (cluster_id, nkey_public)
);
-- A key belongs to one cluster: a revocation is about a key.
create unique index identities_by_nkey on identities (nkey_public);
create unique index identities_by_incarnation on identities (cluster_id, incarnation);
