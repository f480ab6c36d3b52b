//! Rows of a database that is in use for long, written by SQL: preparation only.
//!
//! Half of the history is the measured cluster's, all of it of tenant acme and of the Applications that the requests change; the
//! rest is spread over nine clusters that are out of session, each with a tenant of its own. The oldest commands are of a cluster
//! and a tenant that had none since. Every hundredth failed, every hundredth was superseded. Revisions and ids are lower than those
//! of what is measured, as in a database that grew.

use anyhow::{Context as _, Result};
use kubenova_scenarios::platform::Platform;

/// Applications that the requests go round; the history is about them.
pub(crate) const APPLICATIONS: u64 = 100;
/// Clusters and tenants beside the measured ones.
const OTHERS: u64 = 9;
/// Commands of the cluster and the tenant that are quiet since: more than a page.
const QUIET: u64 = 200;
/// Revisions below belong to what a cluster is commanded when it enrolls.
const REVISION_FIRST: u64 = 1_000;
/// Dead letters: as many as the store keeps of each cluster.
const DEAD_LETTERS: u64 = 100;

fn execute(platform: &Platform, sql: &str) -> Result<()> {
    platform.postgres.query("kubenova", sql).map(drop)
}

/// Rows of a table.
pub(crate) fn count(platform: &Platform, table: &str) -> Result<u64> {
    let printed = platform.postgres.query("kubenova", &format!("select count(*) from {table}"))?;
    printed.trim().parse().context("a count is a number")
}

/// Leaves the revisions up to this one to the history; before anything is commanded.
pub(crate) fn reserve(platform: &Platform, cluster: &str, revisions: u64) -> Result<()> {
    let reserved = REVISION_FIRST + revisions;
    execute(
        platform,
        &format!("update clusters set revision_counter = revision_counter + {reserved} where id = '{cluster}'"),
    )
}

/// Clusters `other-1` and so on up to `to`, which were in session once, and the quiet one.
pub(crate) fn clusters(platform: &Platform, to: u64) -> Result<()> {
    execute(
        platform,
        &format!(
            "insert into clusters (id, name, state, incarnation, enrolled_at, created_at, updated_at, created_by, revision_counter)
             select 'c' || lpad(n::text, 26, '0'), case n when 0 then 'quiet' else 'other-' || n end, 'enrolled', 1, now(), now(), now(),
                    'bench', 1000000000
             from generate_series(0, {to}) n on conflict do nothing;
             analyze clusters"
        ),
    )
}

/// Tenants `other-1` and so on up to `to`, each on a cluster, and the quiet one.
pub(crate) fn tenants(platform: &Platform, to: u64) -> Result<()> {
    execute(
        platform,
        &format!(
            "insert into tenants (id, name, quota_cpu, quota_memory, quota_pods, created_at, updated_at, created_by)
             select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, case n when 0 then 'quiet' else 'other-' || n end,
                    '8', '16Gi', 50, now(), now(), 'bench'
             from generate_series(0, {to}) n on conflict do nothing;
             insert into placements (tenant_id, cluster_id, created_at, created_by)
             select t.id, 'c' || lpad(right(t.id::text, 12)::bigint::text, 26, '0'), now(), 'bench'
             from tenants t where t.created_by = 'bench' and right(t.id::text, 12)::bigint <= {OTHERS} on conflict do nothing;
             analyze tenants; analyze placements"
        ),
    )
}

/// Everything that the history refers to, and dead letters.
pub(crate) fn surroundings(platform: &Platform) -> Result<()> {
    clusters(platform, OTHERS)?;
    tenants(platform, OTHERS)?;
    execute(
        platform,
        &format!(
            "insert into dead_letters (id, cluster_id, kind, payload_sha256, subject, reason, payload, payload_bytes, first_seen_at,
                                       last_seen_at)
             select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, c.id,
                    case n % 3 when 0 then 'outcome' when 1 then 'status' else 'usage' end, md5(n::text), 's', 'unreadable', 'x', 1,
                    now(), now()
             from (select id, row_number() over (order by id) as place from clusters) c,
                  generate_series((place - 1) * {DEAD_LETTERS} + 1, place * {DEAD_LETTERS}) n;
             analyze dead_letters"
        ),
    )
}

/// Ended commands, number `from` to `to`.
pub(crate) fn commands(platform: &Platform, cluster: &str, tenant_id: &str, from: u64, to: u64) -> Result<()> {
    execute(
        platform,
        &format!(
            "insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation, state,
                                   created_by, queued_at, sent_at, acknowledged_at, running_at, finished_at, hops, send_count)
             select (lpad(to_hex((extract(epoch from o.at) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(o.n), 15, '0'))::uuid,
                    w.cluster_id, {REVISION_FIRST} + o.n, 'apply-application', 'application/' || w.tenant_id || '/bench-' || o.n % {APPLICATIONS},
                    repeat('x', 400), w.tenant_id, 'bench-' || o.n % {APPLICATIONS}, o.n,
                    case o.n % 100 when 7 then 'failed' when 8 then 'superseded' else 'succeeded' end, 'bench',
                    o.at, o.at, o.at, o.at, o.at, jsonb_build_array(jsonb_build_object('name', 'applied', 'at', o.at)), 1
             from (select n, date_trunc('day', now()) - interval '2 days' + n * interval '1 millisecond' as at,
                          case when n <= {QUIET} then 0 when n % 2 = 1 then -1 else 1 + n / 2 % {OTHERS} end as whose
                   from generate_series({from}::bigint, {to}::bigint) n) o
                  cross join lateral (
                      select case o.whose when -1 then '{cluster}' else 'c' || lpad(o.whose::text, 26, '0') end as cluster_id,
                             case o.whose when -1 then '{tenant_id}'
                                 else '00000000-0000-7000-8000-' || lpad(o.whose::text, 12, '0') end::uuid as tenant_id
                  ) w"
        ),
    )?;
    // What autovacuum does within a minute.
    execute(platform, "vacuum analyze commands")
}
