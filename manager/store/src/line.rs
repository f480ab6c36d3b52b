//! A connection to Postgres that a test can lose without a word.

use crate::fixture::Fixture;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr as _;

/// Hands bytes between the store and Postgres, until it is to lose the connections of then: they stay open, and nothing comes
/// through them any more, as when the host of a server is gone.
pub(crate) struct Line {
    /// Of the database, through the line.
    pub(crate) url: String,
    lost: tokio::sync::watch::Sender<u32>,
}

impl Line {
    pub(crate) async fn to(fixture: &Fixture) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = PgConnectOptions::from_str(fixture.url()).unwrap();
        let socket = options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()));
        let (lost, watched) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (socket, mut watched) = (socket.clone(), watched.clone());
                watched.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = tokio::net::UnixStream::connect(socket).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = watched.changed() => std::future::pending().await,
                    }
                });
            }
        });
        let database = options.get_database().unwrap();
        Self { url: format!("postgres://postgres@127.0.0.1:{port}/{database}"), lost }
    }

    /// Loses every connection that there is.
    pub(crate) fn lose(&self) {
        self.lost.send_modify(|count| *count += 1);
    }
}
