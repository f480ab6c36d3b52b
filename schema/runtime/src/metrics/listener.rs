//! The metrics listener: plain HTTP, `GET /metrics`, nothing else.
//!
//! It has no access control and no TLS: bind it to loopback or to a network that only the monitoring reaches.

use crate::shutdown::Shutdown;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections served at once: some Prometheus servers and a person. More wait in the listener's queue.
const CONNECTIONS_MAX: usize = 8;
/// Time for a request's headers and for the whole connection; a scrape takes milliseconds.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Pause after an accept failed, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The media type of the encoded metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the text of an answer.
type Encode = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers with what `encode` makes until a stop is requested.
pub(super) async fn run(listener: TcpListener, encode: Encode, shutdown: &Shutdown) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.requested() => return,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Ok((stream, permit)) = accepted else {
            if shutdown.sleep(ACCEPT_PAUSE).await {
                continue;
            }
            return;
        };
        let encode = Arc::clone(&encode);
        tokio::spawn(async move {
            let _permit = permit;
            // A scraper that goes away or is too slow loses its answer; it asks again.
            let _ended = tokio::time::timeout(CONNECTION_MAX, answer(stream, encode)).await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn answer(stream: TcpStream, encode: Encode) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = respond(&request, &encode);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(request: &Request<Incoming>, encode: &Encode) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, OPEN_METRICS, encode()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_serves_metrics_and_nothing_else_and_ends_on_a_stop() {
        let encode: Encode = Arc::new(|| "scrapes 1\n# EOF\n".to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        shutdown.spawn("metrics", async move { run(listener, encode, &stop).await });

        let answer = ask(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(OPEN_METRICS), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
        // More than may be served at once: each ends and makes room.
        for _ in 0..2 * CONNECTIONS_MAX {
            assert!(ask(address, "GET /metrics").await.starts_with("HTTP/1.1 200 "));
        }
        shutdown.request();
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }
}
