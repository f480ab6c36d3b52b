//! The lists of the REST API, and what else reads commands, each as a request that is made again and again.

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use kubenova_scenarios::platform::Platform;
use serde_json::Value;
use std::time::{Duration, Instant};

use crate::statistics::Sample;

/// Rows of a page: as few as even the shortest list has at the second number of commands.
const LIMIT: u64 = 20;

/// A read, and how its page in the middle is found: by SQL that selects the keys of the list.
struct Route {
    path: String,
    keys: Option<&'static str>,
}

/// A read with what it took.
pub(crate) struct Read {
    /// Its path, for the table.
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) took: Sample,
    /// Objects in the answer; none when it is no list.
    pub(crate) items: Option<usize>,
}

/// Every route. Cluster `sim-1`, tenant `acme` and its application `bench-7` have half of the history, `quiet` only its beginning.
fn routes(command: &str) -> Vec<Route> {
    let list = |path: &str, keys: Option<&'static str>| {
        let separator = if path.contains('?') { '&' } else { '?' };
        Route { path: format!("/api/v1/{path}{separator}limit={LIMIT}"), keys }
    };
    let one = |path: String| Route { path: format!("/api/v1/{path}"), keys: None };
    vec![
        list("commands", Some("select id from commands")),
        list(
            "commands?cluster=sim-1",
            Some("select k.id from commands k join clusters c on c.id = cluster_id where name = 'sim-1'"),
        ),
        list(
            "commands?tenant=acme",
            Some("select k.id from commands k join tenants t on t.id = tenant_id where name = 'acme'"),
        ),
        list("commands?tenant=acme&application=bench-7", None),
        list("commands?application=bench-7", None),
        list("commands?application=none", None),
        list("commands?state=failed", Some("select id from commands where state = 'failed'")),
        list("commands?state=queued", None),
        list("commands?cluster=sim-1&state=failed", None),
        list("commands?tenant=acme&state=superseded", None),
        list("commands?cluster=sim-1&state=expired", None),
        list("commands?cluster=quiet", None),
        list("commands?tenant=quiet", None),
        list("commands?tenant=quiet&application=bench-9", None),
        list("commands?cluster=quiet&state=failed", None),
        list(
            "tenants/acme/apps",
            Some("select a.id from applications a join tenants t on t.id = tenant_id where t.name = 'acme'"),
        ),
        list("tenants", Some("select id from tenants")),
        list("clusters", Some("select id from clusters")),
        list("dead-letters", Some("select id from dead_letters")),
        list("dead-letters?cluster=sim-1", None),
        list("dead-letters?kind=status", None),
        one(format!("commands/{command}")),
        one("tenants/acme/apps/bench-7/status".to_owned()),
        one("clusters/sim-1/sync".to_owned()),
    ]
}

/// The reads as they are now, not measured yet; `command` is one whose page is read.
pub(crate) async fn all(platform: &Platform, command: &str) -> Result<Vec<Read>> {
    let mut reads = Vec::new();
    for route in routes(command) {
        let body = platform.rest.get(&route.path).await?.expect(200)?;
        let name = route.path.trim_start_matches("/api/v1").replace(command, "<id>");
        let name = name.replace(&format!("?limit={LIMIT}"), "").replace(&format!("&limit={LIMIT}"), "");
        if let (Some(keys), Some(cursor)) = (route.keys, body["nextCursor"].as_str()) {
            let sql = format!(
                "with keys (id) as ({keys}) select id from keys order by id offset (select count(*) / 2 from keys) limit 1"
            );
            let key = platform.postgres.query("kubenova", &sql)?;
            let separator = if route.path.contains('?') { '&' } else { '?' };
            let path = format!("{}{separator}cursor={}", route.path, moved(cursor, key.trim())?);
            reads.push(Read { name: format!("{name}, in the middle"), path, took: Sample::default(), items: None });
        }
        reads.push(Read { name, path: route.path, took: Sample::default(), items: None });
    }
    reads.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(reads)
}

/// The same cursor after another key. To callers a cursor is opaque; to walk to the middle of a million rows would take an hour.
fn moved(cursor: &str, key: &str) -> Result<String> {
    let text = String::from_utf8(BASE64URL_NOPAD.decode(cursor.as_bytes())?)?;
    let (before, _) = text.rsplit_once('\n').context("a cursor ends in a key")?;
    Ok(BASE64URL_NOPAD.encode(format!("{before}\n{key}").as_bytes()))
}

/// Makes each read `count` times, in turn, so that whatever else the machine does meets all of them.
pub(crate) async fn measure(platform: &Platform, reads: &mut [Read], count: u64) -> Result<()> {
    for _ in 0..count {
        for read in &mut *reads {
            let (body, took) = get(platform, &read.path).await?;
            read.took.push(took);
            read.items = body["items"].as_array().map(Vec::len);
        }
    }
    Ok(())
}

async fn get(platform: &Platform, path: &str) -> Result<(Value, Duration)> {
    let began = Instant::now();
    let answer = platform.rest.get(path).await?;
    let took = began.elapsed();
    ensure!(answer.status == 200, "GET {path}: {} {}", answer.status, answer.body);
    Ok((answer.body, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_moved_to_another_key() {
        let cursor = BASE64URL_NOPAD.encode(b"1\ncommands\nabc\n0198");
        let moved = BASE64URL_NOPAD.decode(moved(&cursor, "0200").unwrap().as_bytes()).unwrap();
        assert_eq!(moved, b"1\ncommands\nabc\n0200");
    }
}
