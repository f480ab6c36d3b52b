//! The Manager's router on a PostgreSQL of its own, without broker and clusters: what schemathesis and the generated
//! clients call. Prints where it listens and the tokens of its callers as one line of JSON, then serves until it is ended;
//! the database ends with it.
//!
//! It serves HTTP on the loopback interface, because the certificate of a test server would have to be made known to
//! each of five HTTP libraries in its own way; TLS is tested in `manager/api/src/serve.rs`.

mod reports;
mod seed;

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use kubenova_api::{router::router, state::AppState};
use kubenova_store::pool::Store;
use kubenova_test_postgres::Database;
use serde::Serialize;

/// Connections to the database: schemathesis sends a few requests at once.
const CONNECTIONS: u32 = 8;

/// What a client needs to know.
#[derive(Debug, Serialize)]
struct Served {
    /// Without a slash at the end.
    url: String,
    #[serde(flatten)]
    seeded: seed::Seeded,
}

#[tokio::main]
async fn main() -> Result<()> {
    let database = Database::new().await;
    let state = AppState::without_clusters(Store::open(database.url(), CONNECTIONS)?);
    let router = router(state.clone());
    let seeded = seed::seed(&state, &router).await.context("could not make the objects to begin with")?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .context("could not listen on the loopback interface")?;
    let address = listener.local_addr().context("could not read the address of the listener")?;
    let served = Served { url: format!("http://{address}"), seeded };
    let line = serde_json::to_string(&served).context("could not write the tokens")?;
    writeln!(std::io::stdout(), "{line}").context("could not print where it listens")?;
    axum::serve(listener, router).await.context("could not serve")
}
