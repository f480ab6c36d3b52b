//! `recover list` and `recover adopt`: after the database was restored to an earlier point, what clusters hold that it lost, and
//! taking that over.
//!
//! For whoever may read the settings file; `docs/operations/restore.md` says how to use it. What a cluster holds came over the
//! broker while a Manager ran (`manager/src/session/records.rs`); nothing here calls a cluster.

use super::{keys, say};
use crate::settings::Settings;
use anyhow::{Context as _, Result, bail};
use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    command::OPERATION_KEY_PREFIX,
    recovery::{Action, Held, Newest},
};
use kubenova_runtime::{clock, random};
use kubenova_schema::signature::AcceptedKeys;
use kubenova_store::{
    clusters,
    connection::Connection,
    divergences::{self, Divergence},
    outbox::Issuer,
    pool::Store,
    recovery::{
        self, Line, adopt,
        adoption::{AdoptError, Adopted, Adoption, RECOVERY_AUTHOR},
    },
};
use std::{collections::BTreeSet, fmt::Write as _, io::Write as _};

/// Commands for after a restore of the database.
#[derive(Debug, clap::Subcommand)]
pub enum RecoverVerb {
    /// List the clusters that hold what the database lost, object by object, and what adopting would do. Changes nothing.
    List {
        /// Only this cluster (id or name).
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Take over what a cluster holds: its newer documents and deletes become the database's.
    Adopt(Adopt),
}

/// Arguments of `recover adopt`.
#[derive(Debug, clap::Args)]
pub struct Adopt {
    /// The cluster (id or name).
    #[arg(long)]
    cluster: String,
    /// Do it. Without this the command shows what it would do.
    #[arg(long)]
    yes: bool,
    /// An object to leave as it is in the cluster, as `recover list` names it. It is shown as unknown from then on. Can be repeated.
    #[arg(long, value_name = "KEY")]
    leave: Vec<String>,
}

impl RecoverVerb {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.connect().await?;
        match self {
            Self::List { cluster } => print(&list(&store, cluster.as_deref(), &BTreeSet::new()).await?),
            Self::Adopt(arguments) => {
                let keyring = keys::open(settings, &store).await?;
                adopt(&store, &keyring.command.ever_accepted(), arguments).await
            }
        }
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("could not print the result")
}

async fn find(connection: &mut Connection, named: &str) -> Result<Cluster> {
    let cluster = clusters::find(connection, &ClusterRef::parse(named)).await?;
    cluster.with_context(|| format!("there is no cluster \"{named}\""))
}

/// The text of `recover list`.
async fn list(store: &Store, named: Option<&str>, leave: &BTreeSet<String>) -> Result<String> {
    let mut connection = store.acquire().await?;
    let only = match named {
        Some(named) => Some(find(&mut connection, named).await?.id),
        None => None,
    };
    let diverged = divergences::list(&mut connection, only.as_ref()).await?;
    if diverged.is_empty() {
        return Ok("no cluster has said that it holds what the database lost; after a restore each says so within a minute of \
                   its connection\n"
            .to_owned());
    }
    let mut text = String::new();
    for divergence in &diverged {
        let cluster = find(&mut connection, divergence.cluster_id.as_str()).await?;
        let lines = recovery::plan(&mut connection, &cluster.id).await?;
        if let Some(key) = leave.iter().find(|key| lines.iter().all(|line| line.key != **key)) {
            bail!("there is no object \"{key}\" to leave: name it as recover list does; nothing was changed");
        }
        text.push_str(&describe(&cluster, divergence, &lines, leave));
    }
    Ok(text)
}

/// A cluster with a table of its objects: only those about which adopting does something.
fn describe(cluster: &Cluster, divergence: &Divergence, lines: &[Line], leave: &BTreeSet<String>) -> String {
    let mut text = format!("cluster {} ({}) has diverged since {}\n", cluster.name, cluster.id, divergence.since);
    let summary = match (divergence.is_listed, divergence.missing) {
        (false, _) => "it has not sent yet what it holds: wait a minute while its Operator is connected".to_owned(),
        (true, 0) => format!("it holds {} commands that the database lost; all of them are here", divergence.lacking),
        (true, missing) => format!(
            "it holds {} commands that the database lost; {missing} of them have not come, or cannot be used",
            divergence.lacking
        ),
    };
    let _infallible = writeln!(text, "{summary}\n");
    let (same, different): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.action == Action::Keep && line.problem.is_empty());
    let mut rows = vec![["OBJECT", "NAME", "DATABASE", "CLUSTER", "ADOPTING WILL"].map(str::to_owned)];
    rows.extend(different.iter().map(|line| row(line, leave)));
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default()).collect();
    for [object, name, database, held, action] in &rows {
        let (a, b, c, d) = (widths[0], widths[1], widths[2], widths[3]);
        let _infallible = writeln!(text, "{object:a$}  {name:b$}  {database:c$}  {held:d$}  {action}");
    }
    let _infallible = writeln!(
        text,
        "\n{} more objects are the same on both sides\nto take over what the cluster holds: kubenova-manager recover adopt --cluster {} --yes\n",
        same.len(),
        cluster.name
    );
    text
}

fn row(line: &Line, leave: &BTreeSet<String>) -> [String; 5] {
    let what = |is_delete: bool| if is_delete { "delete" } else { "apply" };
    let database = line.newest.as_ref().map_or_else(
        || "-".to_owned(),
        |Newest { revision, state, is_delete, .. }| format!("{} {revision}, {}", what(*is_delete), state.as_str()),
    );
    let held = line
        .held
        .as_ref()
        .map_or_else(|| "-".to_owned(), |Held { revision, is_delete, .. }| format!("{} {revision}", what(*is_delete)));
    let is_operation = line.key.starts_with(OPERATION_KEY_PREFIX);
    let action = match line.action {
        _ if leave.contains(&line.key) => "leave".to_owned(),
        _ if !line.problem.is_empty() => format!("refuse: {}", line.problem),
        Action::AdoptApply if is_operation => "take over the operation".to_owned(),
        action => action.as_str().to_owned(),
    };
    let name = Some(line.name.as_str()).filter(|name| !name.is_empty()).unwrap_or("-").to_owned();
    [line.key.clone(), name, database, held, action]
}

async fn adopt(store: &Store, keys: &AcceptedKeys, arguments: Adopt) -> Result<()> {
    let Adopt { cluster: named, yes, leave } = arguments;
    let cluster = find(&mut *store.acquire().await?, &named).await?;
    let leave: BTreeSet<String> = leave.into_iter().collect();
    if !yes {
        let diverged = divergences::list(&mut *store.acquire().await?, Some(&cluster.id)).await?;
        if diverged.is_empty() {
            say(&nothing_to_adopt(&cluster));
            return Ok(());
        }
        print(&list(store, Some(&named), &leave).await?)?;
        bail!("nothing was changed: give --yes to adopt");
    }
    let adopted = adopt_cluster(store, keys, &cluster, &leave).await?;
    say(&describe_adopted(&cluster, &adopted, leave.len()));
    Ok(())
}

fn nothing_to_adopt(cluster: &Cluster) -> String {
    format!(
        "there is nothing to adopt: cluster {} has not said that it holds what the database lost; after a restore it says so within \
         a minute of its connection",
        cluster.name
    )
}

async fn adopt_cluster(
    store: &Store,
    keys: &AcceptedKeys,
    cluster: &Cluster,
    leave: &BTreeSet<String>,
) -> Result<Adopted, AdoptError> {
    let issuer = Issuer::without_request(RECOVERY_AUTHOR, "admin", clock::now(), random::uuid_v7);
    let adoption = Adoption { cluster: &cluster.id, keys, leave, issuer };
    store.transaction("adopt what a cluster holds", async |tx| adopt::adopt(tx, adoption).await).await
}

fn describe_adopted(cluster: &Cluster, adopted: &Adopted, left: usize) -> String {
    let count = |action: Action| adopted.keys.get(&action).copied().unwrap_or_default();
    format!(
        "cluster {}: adopted {} documents and {} deletes; {} newer changes of the database and {} objects that the cluster lost \
         are sent; {left} objects were left; epoch {}, revision {}\nthe cluster says hello within half a minute and is in session then",
        cluster.name,
        count(Action::AdoptApply),
        count(Action::AdoptDelete),
        count(Action::SendNewer),
        count(Action::SendAgain),
        adopted.epoch,
        adopted.counter,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kubenova_core::{
        cluster::{ClusterId, ClusterName, ClusterState, Components},
        command::{CommandId, CommandState},
    };
    use kubenova_test_postgres::Database;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn cluster() -> Cluster {
        Cluster {
            id: ClusterId::from_uuid(Uuid::from_u128(1)),
            name: ClusterName::parse("alpha").unwrap(),
            datacenter: String::new(),
            labels: BTreeMap::new(),
            components: Components::default(),
            generation: 1,
            epoch: 1,
            revision: 48,
            kubernetes_uid: None,
            incarnation: 1,
            state: ClusterState::Enrolled,
            state_note: None,
            approval: kubenova_core::cluster::Approval::Automatic,
            enrolled_at: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            created_by: "ann".into(),
        }
    }

    fn line(key: &str, newest: Option<(i64, CommandState)>, held: Option<(i64, bool)>, action: Action) -> Line {
        let id = CommandId(Uuid::nil());
        Line {
            key: key.to_owned(),
            name: String::new(),
            newest: newest.map(|(revision, state)| Newest { id, revision, state, is_delete: false }),
            held: held.map(|(revision, is_delete)| Held { id, revision, is_delete, is_known: false }),
            action,
            problem: String::new(),
        }
    }

    #[test]
    fn the_table_says_what_each_side_has_and_what_adopting_does() {
        let divergence = Divergence {
            cluster_id: cluster().id,
            since: "2026-03-01T02:00:00Z".parse().unwrap(),
            epoch: 1,
            highest_revision: 55,
            highest_command: None,
            is_listed: true,
            lacking: 2,
            missing: 1,
        };
        let lines = [
            Line {
                name: "shop/old".to_owned(),
                ..line("application/t/old", Some((40, CommandState::Succeeded)), Some((55, true)), Action::AdoptDelete)
            },
            Line {
                problem: "the Manager did not sign it".to_owned(),
                ..line("tenant/u", None, Some((54, false)), Action::AdoptApply)
            },
            line("tenant/t", Some((3, CommandState::Succeeded)), Some((3, false)), Action::Keep),
        ];
        let text = describe(&cluster(), &divergence, &lines, &BTreeSet::new());
        let expected = "\
OBJECT             NAME      DATABASE             CLUSTER    ADOPTING WILL
application/t/old  shop/old  apply 40, succeeded  delete 55  adopt the delete
tenant/u           -         -                    apply 54   refuse: the Manager did not sign it

1 more objects are the same on both sides
to take over what the cluster holds: kubenova-manager recover adopt --cluster alpha --yes
";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("since 2026-03-01T02:00:00Z\nit holds 2 commands that the database lost; 1 of them"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_cluster_that_has_not_diverged_is_not_asked_to_be_adopted() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        clusters::insert(&mut store.acquire().await.unwrap(), &cluster()).await.unwrap();
        let arguments = Adopt { cluster: "alpha".to_owned(), yes: false, leave: Vec::new() };
        adopt(&store, &AcceptedKeys::of(&[]), arguments).await.unwrap();
        assert!(nothing_to_adopt(&cluster()).starts_with("there is nothing to adopt: cluster alpha"));
    }
}
