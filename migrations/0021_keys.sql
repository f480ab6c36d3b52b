-- Keys of this installation, private halves sealed with the key-encryption key.
-- Locks: creates a table, touches no row of another.
create table keys (
    name       text primary key,
    -- The public half.
    public     text not null,
    kek_id     text not null,
    sealed     bytea not null,
    created_at timestamptz not null
);
