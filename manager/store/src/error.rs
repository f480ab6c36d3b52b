//! What can go wrong with the store, and the one place where a database constraint becomes a refusal.

use kubenova_core::{
    cluster::ClusterId,
    refusal::{Reason, Refusal},
};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How the migrations of a database differ from those of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MigrationsDiffer {
    /// The database has none.
    #[error("the database was not prepared: run kubenova-manager init")]
    Unprepared,
    /// The database has all of this release, and others.
    #[error(
        "the database is newer than this kubenova-manager, which does not know migration {first}: use the kubenova-manager of the release that the Manager runs"
    )]
    DatabaseNewer {
        /// The first that this release does not know.
        first: i64,
    },
    /// The database lacks some of this release.
    #[error(
        "this kubenova-manager is newer than the database, which lacks migration {first}: upgrade the Manager to this release, or use the kubenova-manager of the release that the Manager runs"
    )]
    DatabaseOlder {
        /// The first that the database lacks.
        first: i64,
    },
    /// Neither is newer: each has what the other lacks, or one of the same number has another text.
    #[error(
        "migration {first} is not the same in the database and in this kubenova-manager, and neither of them is newer: use the kubenova-manager of the release that the Manager runs"
    )]
    Unrelated {
        /// The first that is not the same.
        first: i64,
    },
}

/// A failed use of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("could not {attempt}")]
    Query {
        /// What was being attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// A transaction could not begin or commit.
    #[error("could not {step} the transaction to {attempt}")]
    Transaction {
        /// `begin` or `commit`.
        step: &'static str,
        /// What the transaction is for.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// A transaction was given up.
    #[error("could not {attempt} within {} s: Postgres does not answer, or is overloaded", limit.as_secs_f64())]
    TooLong {
        /// What the transaction is for.
        attempt: &'static str,
        /// The limit.
        limit: std::time::Duration,
    },
    /// No connection could be made.
    #[error(
        "could not connect to database \"{database}\" of Postgres at {address}: check database.url or database.urlFile of the settings, and that Postgres runs and accepts connections from here"
    )]
    Connect {
        /// Host and port.
        address: String,
        /// The database.
        database: String,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// The migrations could not be applied.
    #[error("could not apply migrations: is this release older than the database?")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The database has other migrations than this release.
    #[error(transparent)]
    MigrationsDiffer(#[from] MigrationsDiffer),
    /// A row holds a value that no release of the Manager writes.
    #[error(
        "column {column} of row {id} in table {table} is invalid: the database was edited by hand or restored in part"
    )]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        id: String,
        /// What is wrong with the value.
        #[source]
        source: Cause,
    },
    /// A row that must exist does not.
    #[error("row {id} of table {table} is missing: the database was edited by hand or restored in part")]
    Missing {
        /// The table.
        table: &'static str,
        /// The row's key.
        id: String,
    },
    /// A document that would not fit where it must be carried.
    #[error("the document takes {bytes} bytes on its way to the cluster; at most {most} are possible")]
    TooLarge {
        /// As it would be carried.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// A cluster that was purged gets no command.
    #[error("cluster \"{cluster}\" was purged: nothing is sent to it any more")]
    Purged {
        /// Its name.
        cluster: String,
    },
    /// Another request with the same Idempotency-Key is in progress or committed first.
    #[error("another request with the same idempotency key is in progress or committed first")]
    IdempotencyKeyInUse,
}

/// For `map_err`: names the failed attempt.
pub(crate) fn failed(attempt: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { attempt, source }
}

/// The row that a value is read from, to name it when the value is invalid.
#[derive(Clone, Copy)]
pub(crate) struct RowRef<'a> {
    pub(crate) table: &'static str,
    pub(crate) id: &'a dyn std::fmt::Display,
}

impl RowRef<'_> {
    /// The error for an invalid value, with its cause.
    pub(crate) fn invalid(self, column: &'static str, cause: impl Into<Cause>) -> StoreError {
        StoreError::Inconsistent { table: self.table, column, id: self.id.to_string(), source: cause.into() }
    }

    /// Reads a text that `parse` must know.
    pub(crate) fn parse<T>(
        self,
        column: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        parse(text).ok_or_else(|| self.invalid(column, format!("unknown value {text:?}")))
    }

    /// Reads the id of a cluster.
    pub(crate) fn cluster_id(self, column: &'static str, text: &str) -> Result<ClusterId, StoreError> {
        self.parse(column, text, ClusterId::parse)
    }
}

/// Fails unless exactly one row was written: what the caller read before in this transaction is gone.
pub(crate) fn one_row(rows: u64, table: &'static str, id: &impl ToString) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::Missing { table, id: id.to_string() }) }
}

/// Fails unless so many rows were written: what the caller read before in this transaction is gone.
pub(crate) fn every_row(rows: u64, expected: usize, table: &'static str, id: &impl ToString) -> Result<(), StoreError> {
    if usize::try_from(rows) == Ok(expected) { Ok(()) } else { Err(StoreError::Missing { table, id: id.to_string() }) }
}

impl StoreError {
    /// What sqlx said, if the error comes from there.
    const fn cause(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Query { source, .. } | Self::Transaction { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The refusal when the cause is something callers did: a broken named constraint, changes of the same object at once.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::IdempotencyKeyInUse => Some(Refusal::new(
                Reason::IdempotencyKeyInUse,
                "another request with this Idempotency-Key is in progress, or was accepted a moment ago",
            )),
            Self::TooLarge { .. } => Some(Refusal::new(
                Reason::BodyTooLarge,
                format!(
                    "{self}; quotes and backslashes count several times, because the document travels as text in text"
                ),
            )),
            Self::Purged { .. } => Some(Refusal::new(Reason::ClusterNotUsable, self.to_string())),
            _ if self.is_contended() => Some(Refusal::new(
                Reason::Contended,
                "other changes of the same object, or on the same clusters, were carried out for too long; nothing was changed",
            )),
            _ => match self.cause()? {
                sqlx::Error::Database(cause) => on_constraint(cause.constraint()?),
                _ => None,
            },
        }
    }

    /// True when these very values can never be stored: a NUL in a text, a number out of range, a broken constraint.
    #[must_use]
    pub fn is_unstorable(&self) -> bool {
        let Some(sqlx::Error::Database(cause)) = self.cause() else { return false };
        // Cardinality, data exception, integrity constraint, program limit (PostgreSQL, appendix A).
        cause.code().is_some_and(|code| ["21", "22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// True when other transactions held the same rows for too long: a lock that was not free in time, a deadlock, a
    /// serialization failure.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        let Some(sqlx::Error::Database(cause)) = self.cause() else { return false };
        // Lock not available, transaction rollback (PostgreSQL, appendix A).
        cause.code().is_some_and(|code| code == "55P03" || code.starts_with("40"))
    }

    /// True when Postgres may have committed, and did not say so: the connection broke, or was given up, meanwhile.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        match self {
            Self::Transaction { step: "commit", source, .. } => !matches!(source, sqlx::Error::Database(_)),
            Self::TooLong { .. } => true,
            _ => false,
        }
    }

    /// True when trying again may help: no connection, rows that others held for too long, a server that is starting or
    /// was stopped, a statement that took too long.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        if self.is_contended() || matches!(self, Self::TooLong { .. }) {
            return true;
        }
        // Operator intervention, insufficient resources (PostgreSQL, appendix A).
        match self.cause() {
            Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)) => {
                true
            }
            Some(sqlx::Error::Database(cause)) => {
                cause.code().is_some_and(|code| ["57", "53"].iter().any(|class| code.starts_with(class)))
            }
            _ => false,
        }
    }
}

fn on_constraint(name: &str) -> Option<Refusal> {
    let (reason, field, detail) = match name {
        "clusters_name_key" => (Reason::NameTaken, "/name", "a cluster with this name exists"),
        "tenants_name_key" => (Reason::NameTaken, "/name", "a tenant with this name exists"),
        "applications_name_key" => (Reason::NameTaken, "/name", "an application with this name exists in this tenant"),
        "rollout_clusters_open_key" => {
            (Reason::RolloutOverlaps, "/clusters", "another rollout changes this component on one of the clusters")
        }
        "placements_pkey" => (Reason::PlacementExists, "/cluster", "the tenant is on this cluster already"),
        _ => return None,
    };
    Some(Refusal::at(reason, field, detail))
}
