//! Serving over TLS, on as many listeners as there are; an inherited one is as good as any.

use axum::Router;
use axum_server::{
    Handle,
    tls_rustls::{RustlsConfig, from_tcp_rustls},
};
use kubenova_runtime::shutdown::Shutdown;
use rustls::ServerConfig;
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

/// How long requests that run may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener cannot be used.
    #[error("could not listen on {address:?}")]
    Listen {
        /// Its address, if it has one.
        address: Option<SocketAddr>,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until a stop is asked for, then lets running requests finish.
///
/// No client certificate is asked for: people bring tokens. `tls` decides the certificate, also over time through its
/// resolver; the protocols (HTTP/2, HTTP/1.1) are set here.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tls: ServerConfig,
    router: Router,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let mut tls = tls;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let handle = Handle::new();
    let stop = {
        let (handle, shutdown) = (handle.clone(), shutdown.clone());
        async move {
            shutdown.requested().await;
            handle.graceful_shutdown(Some(GRACE));
        }
    };
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let address = listener.local_addr().ok();
        let failed = move |source| ServeError::Listen { address, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let server = from_tcp_rustls(listener, tls.clone()).map_err(failed)?.handle(handle.clone());
        let service = router.clone().into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(async move { server.serve(service).await.map_err(failed) });
    }
    let mut stop = std::pin::pin!(stop);
    let mut stopping = false;
    loop {
        tokio::select! {
            () = &mut stop, if !stopping => stopping = true,
            ended = servers.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(panic)) => tracing::error!(error = %panic, "a listener ended by surprise"),
            },
        }
    }
}
