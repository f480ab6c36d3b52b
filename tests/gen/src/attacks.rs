//! The page of attacks: the matrix, each case with the test that tries it. A case without a test, a test without a case, and a case that
//! stands twice are errors.

use anyhow::{Context as _, ensure};
use kubenova_test_attacks::{
    Target,
    cluster::{self, Group, Source},
    targets,
};
use std::{collections::BTreeSet, fmt::Write as _, path::Path};

const TOP: &str = "# Attacks

<!-- Written by `cargo dev gen` from tests/attacks and the tests that try them; do not edit. -->

What an attacker who holds something may try, and what stops it. Each case is a test against the real broker, bridge, database, endpoint or \
code of the Operator. It asserts that the part which is named refuses, in the words of the column *says*, and that the rightful party may \
do the same beside it: so it fails when the defence is gone, and when another part refuses by accident. *Cluster A* is a cluster whose keys \
were stolen or whose owner cheats, and *cluster B* any other one.
";

const AT_THE_API_SERVER: &str = "
## Tokens at a cluster's API server

Tried on a real API server with the whole chart, from `tests/attacks/cluster`: what roles stop, and what one policy of the chart stops. \
Each attempt that a policy stops succeeds once the policies are taken away, so each fails with its policy. What the rightful parties do \
every day (`tests/attacks/cluster/allowed.yaml`) works beside it. [Isolation](operations/isolation.md) says what each policy is for.
";

const END: &str = "
## What is not stopped

| Attacker holds | Can | What bounds it |
| --- | --- | --- |
| the bridge, through which a session passes | change outcomes and status of that cluster, and hold back or repeat any message: it ends TLS, and only commands, answers, receipts and usage are signed from end to end | it commands nothing, bills nothing, and speaks for no other cluster; prefer `tls://` or `wss://`, which end at the broker |
| the bridge | keep a session open after the cluster left it, until the JWT expires or is revoked | as above; revoke the cluster's credentials, which ends the connection at the broker |
| all keys of a cluster | be that cluster: report, and take its session when it is silent | one cluster; a copy that goes on beside it is quarantined; revoke |
| JWT and nkey of a cluster, and the certificate of another | log in: broker and bridge check both, and not that they name the same cluster | the JWT decides what it may do; the private keys leave their cluster only for a leaf node elsewhere |
| the Secret `kubenova-leaf`, or the server with its files (`leaf.url`) | be that cluster at the broker, renew its credentials and sign its usage | one cluster; revoke, and enroll it again |
| the Manager's key that signs users of the role `cluster` | be every cluster at the broker, listening to their control subjects and pulling their commands, also with one user whose name contains `*`, which matches the subjects of all clusters | no command can be signed with it; usage is verified with the nkey that enrolled; `kubenova-manager keys rotate cluster-signer` |
| the Manager's user in the system account | bring a revoked cluster back, or shut all clusters out, for up to a minute: the broker takes an account JWT that is older, or that another operator signed, which then lets no user in | the Manager pushes the newest every minute; a revoked cluster gets no session from it meanwhile |
| the credentials of a cluster, and the random inbox of another's client | have the answer to its own request delivered there: a reply is checked against no permission | the inbox has 22 random characters, which only its client and the broker know; answers to hellos are signed, usage is kept until its signed receipt |
| the credentials of a cluster, and the message id that another will use | have the other's message dropped as a repetition: deduplication is per stream | ids are random UUIDs; what was dropped is repeated (`manager/trust/tests/access_list.rs` `a_known_message_id_can_be_spent_by_another_cluster`) |
| the credentials of a cluster | open connections to the broker until others find no place: it does not count them by cluster (the bridge does) | `max_connections` of the broker (20,000); revoke |
| the broker | withhold, delay, and read all that passes, documents of applications included: messages are signed, not encrypted | what is lost is sent again from Postgres and from the clusters |
| the token of Capsule Proxy, which is in its pods alone | speak for the account `owner` or `readonly` of any tenant, with any group, `system:masters` too: it passes on the groups that the API server names, and RBAC cannot name all but one | no other account of ours can get the token (A-311, A-314, A-323, A-343 to A-346, A-407 to A-409); its namespace holds nothing else; leave it off where tenants need no view of their own ([ADR 0020](adr/0020-capsule-proxy-speaks-for-groups.md)) |
| the pods of Capsule or KubeVela | do with their tokens what their roles say in the namespaces of tenants, and answer the API server's questions about them | no namespace of the site, no Secret but their own, no node |
| the Manager with its signing key | command what the sovereign policy of a cluster allows | the policy, which no command can write, and the words of persons that it asks for |

Whole systems under attack, with real API servers, are scenarios: `tests/scenarios/tests/access_forgery.rs` (what was forged changes no \
object, down to its resource version), `tests/scenarios/tests/access_hostile_cluster.rs`, `tests/scenarios/tests/access_deletions.rs`, \
`tests/scenarios/tests/life_enrollment.rs` and `tests/scenarios/tests/life_revocation.rs`. A revocation that a server of the broker missed, \
or lost with its store, is tried in `manager/tests/accounts.rs`.
";

/// The page.
pub(crate) fn page(root: &Path) -> anyhow::Result<String> {
    let mut page = TOP.to_owned();
    let mut known = BTreeSet::new();
    for target in targets() {
        table(&mut page, root, target, &mut known)?;
    }
    page.push_str(AT_THE_API_SERVER);
    for source in [cluster::OPERATOR, cluster::TENANT] {
        let scenario = std::fs::read_to_string(root.join(source.scenario))
            .with_context(|| format!("could not read the scenario \"{}\"", source.scenario))?;
        ensure!(scenario.contains(source.test), "{} has no test {}", source.scenario, source.test);
        for group in source.groups() {
            attempts(&mut page, &source, &group, &mut known)?;
        }
    }
    write!(page, "{END}")?;
    Ok(page)
}

fn table(page: &mut String, root: &Path, target: &'static Target, known: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let source = std::fs::read_to_string(root.join(target.test))
        .with_context(|| format!("could not read the tests \"{}\"", target.test))?;
    writeln!(page, "\n## {}\n\nTried in `{}`.\n", target.title, target.test)?;
    writeln!(
        page,
        "| Id | Attacker holds | Tries | Stopped by | Says | Test |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    let mut rows = Vec::new();
    for defence in target.defences {
        for (id, tries) in defence.tried {
            ensure!(known.insert((*id).to_owned()), "{id} stands twice in the matrix");
            let test =
                test_of(&source, id).with_context(|| format!("{} does not try {id} exactly once", target.test))?;
            let (holds, stopped_by, says) = (defence.holds, defence.stopped_by, defence.says.replace('|', "\\|"));
            rows.push((id, format!("| {id} | {holds} | {tries} | {stopped_by} | {says} | `{test}` |")));
        }
    }
    rows.sort();
    for (_, row) in &rows {
        writeln!(page, "{row}")?;
    }
    let tried = source.matches("\"A-").count();
    ensure!(tried == rows.len(), "{} tries {tried} cases, and the matrix has {} of them", target.test, rows.len());
    Ok(())
}

fn attempts(page: &mut String, source: &Source, group: &Group, known: &mut BTreeSet<String>) -> anyhow::Result<()> {
    writeln!(page, "\n### {}\n\nTried in `{}`.\n", group.title, source.scenario)?;
    writeln!(page, "| Id | Tries | Stopped by | Says |\n| --- | --- | --- | --- |")?;
    for attempt in &group.tried {
        ensure!(known.insert(attempt.id.clone()), "{} stands twice in the matrix", attempt.id);
        let by = attempt.policy().map_or_else(|| attempt.by.clone(), |policy| format!("policy `{policy}`"));
        writeln!(page, "| {} | {} | {by} | {} |", attempt.id, attempt.tries, attempt.says.replace('|', "\\|"))?;
    }
    Ok(())
}

/// The function in which an id stands, if it stands once.
fn test_of<'a>(source: &'a str, id: &str) -> Option<&'a str> {
    let quoted = format!("\"{id}\"");
    let (before, after) = source.split_once(&quoted)?;
    let function = before.rsplit("\nasync fn ").next().zip(before.rsplit("\nfn ").next());
    let (of_async, of_plain) = function?;
    let nearest = if of_async.len() < of_plain.len() { of_async } else { of_plain };
    (!after.contains(&quoted)).then(|| nearest.split('(').next().unwrap_or_default())
}
