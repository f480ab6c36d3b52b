//! Which lines are logged: what the settings ask for, without the lines of libraries that tell an operator nothing.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Quiet unless the filter names them itself. Postgres' notices ("relation already exists" at every start); a line for
/// each step of a connection to the broker, which our own parts report once; errors of the API server's client, which
/// are answers to be handled and are logged or put into a condition by whoever made the request.
const QUIET: &str = "sqlx=warn,async_nats=warn,kube_client=off";

/// Reads a filter such as `info,kubenova_operator=debug`.
pub(crate) fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    // Of two directives for one target the later one holds.
    EnvFilter::try_new(format!("{QUIET},{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, sync::Mutex};
    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    /// What is logged of lines of libraries and of our own.
    fn logged(filter: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = fmt::layer().with_writer(Mutex::new(file.reopen().unwrap()));
        let subscriber = tracing_subscriber::registry().with(parse(filter).unwrap()).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "sqlx", "a notice");
            tracing::info!(target: "async_nats", "a connect");
            tracing::error!(target: "kube_client::client::builder", "a refused field");
            tracing::warn!(target: "async_nats", "a slow consumer");
            tracing::info!(target: "kubenova_bus::connection", "our own");
        });
        fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn libraries_are_quiet_until_the_filter_names_them() {
        let usual = logged("info");
        assert!(usual.contains("our own") && usual.contains("a slow consumer"), "{usual}");
        for noise in ["a notice", "a connect", "a refused field"] {
            assert!(!usual.contains(noise), "{usual}");
        }
        let asked = logged("info,async_nats=info,kube_client=error");
        assert!(asked.contains("a connect") && asked.contains("a refused field"), "{asked}");
    }
}
