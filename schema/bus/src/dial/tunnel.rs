//! A tunnel through an HTTP proxy: `CONNECT host:port`, and what comes after the answer's empty line is the target's.

use super::{
    ByteStream, PROXY_LIMIT, Socket, Target,
    error::{DialError, ProxyProblem},
    http_head::{Head, HeadError},
    prefixed::Prefixed,
    proxy::Proxy,
    tcp,
};
use crate::tls;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;

impl Proxy {
    /// A stream to the target through this proxy, which resolves the target's name.
    ///
    /// # Errors
    /// When the proxy is not reached or does not connect us.
    pub async fn connect(&self, target: &Target) -> Result<Socket, DialError> {
        let failed = |problem| DialError::Proxy { proxy: self.to_string(), problem };
        let addresses = tcp::resolve(&self.target).await.map_err(|error| failed(ProxyProblem::Unreached(error)))?;
        let stream =
            tcp::connect(&self.target, &addresses).await.map_err(|error| failed(ProxyProblem::Unreached(error)))?;
        let tunnel = tokio::time::timeout(PROXY_LIMIT, self.tunnel(Box::new(stream), target)).await;
        tunnel.unwrap_or(Err(ProxyProblem::TimedOut)).map_err(failed)
    }

    async fn tunnel(&self, stream: Socket, target: &Target) -> Result<Socket, ProxyProblem> {
        let mut stream = if self.is_https {
            let config = tls::trusting(self.ca_file.as_deref()).map_err(ProxyProblem::Files)?;
            let secured = tls::handshake(config, &self.target.host, stream).await;
            Box::new(secured.map_err(|error| ProxyProblem::Tls(Arc::new(error)))?)
        } else {
            stream
        };
        let request = self.request(target).await?;
        let ended = |error: std::io::Error| ProxyProblem::Answer(format!("the connection ended: {error}"));
        stream.write_all(request.as_bytes()).await.map_err(ended)?;
        stream.flush().await.map_err(ended)?;
        answer(stream, target).await
    }

    async fn request(&self, target: &Target) -> Result<String, ProxyProblem> {
        let authorization = match self.authorization().await.map_err(ProxyProblem::Files)? {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        Ok(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n"))
    }
}

async fn answer(mut stream: Box<dyn ByteStream>, target: &Target) -> Result<Socket, ProxyProblem> {
    let head = Head::read(&mut stream).await.map_err(|error| match error {
        HeadError::Ended(Some(error)) => ProxyProblem::Answer(format!("the connection ended: {error}")),
        other => ProxyProblem::Answer(other.to_string()),
    })?;
    match head.status {
        200..=299 => Ok(Prefixed::wrap(head.rest, stream)),
        407 => Err(ProxyProblem::AuthenticationRequired),
        status @ 500..=599 => Err(ProxyProblem::CannotConnect { target: target.clone(), status }),
        status => Err(ProxyProblem::Refused { target: target.clone(), status }),
    }
}
