//! Forwarders: a listener here, a connection made inside another network namespace.
//!
//! Guarantees: what a user and the harness send to a cluster's API server is connected *inside*
//! that cluster, so it never crosses the uplink: a cut does not reach it and a capture does not
//! see it. Listeners bound outside the sandbox are inherited, so a person's `kubectl`, `curl` and
//! `nats` reach servers that no route leads to.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::str::FromStr;
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::inherited;
use crate::network::Netns;

/// How inherited listeners are described to the program: `name:fd,name:fd`.
pub(crate) const ENVIRONMENT: &str = "KUBENOVA_SANDBOX_FORWARDS";

/// A listener to be bound outside the sandbox: `name` or `name=port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardRequest {
    /// What it leads to, in the program's words.
    pub name: String,
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
}

impl FromStr for ForwardRequest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, port) = text.split_once('=').unwrap_or((text, "0"));
        if name.is_empty() || name.contains([':', ',']) {
            bail!("{name:?} is not a name for a forwarder: letters, digits and dashes");
        }
        let port = port.parse().with_context(|| format!("{port:?} is not a port"))?;
        Ok(Self { name: name.to_owned(), port })
    }
}

/// The listeners that came with us into the sandbox.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: BTreeMap<String, TcpListener>,
}

impl Inherited {
    pub(crate) fn from_environment() -> Result<Self> {
        let described = std::env::var(ENVIRONMENT).unwrap_or_default();
        let mut listeners = BTreeMap::new();
        for (name, fd) in parse(&described)? {
            listeners.insert(name, TcpListener::from(inherited::take(fd)?));
        }
        Ok(Self { listeners })
    }

    /// Takes the listener of that name and leads it to `target`, connected inside `netns` (the
    /// sandbox itself if none).
    pub fn forward(&mut self, name: &str, netns: Option<&Netns>, target: SocketAddr) -> Result<Forward> {
        Forward::start(self.take(name)?, netns, target)
    }

    /// Takes the listener of that name.
    pub fn take(&mut self, name: &str) -> Result<TcpListener> {
        self.listeners
            .remove(name)
            .with_context(|| format!("no listener {name:?} came into the sandbox; ask for it with `--forward {name}`"))
    }
}

fn parse(described: &str) -> Result<Vec<(String, RawFd)>> {
    described
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, fd) = part.split_once(':').with_context(|| format!("{part:?} is not name:fd"))?;
            Ok((name.to_owned(), fd.parse().with_context(|| format!("{fd:?} is not a number"))?))
        })
        .collect()
}

/// A running forwarder; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Forward {
    /// Accepts on `listener` (which keeps the namespace it was bound in) and connects to `target`
    /// inside `netns`.
    pub fn start(listener: TcpListener, netns: Option<&Netns>, target: SocketAddr) -> Result<Self> {
        let address = listener.local_addr().context("could not read the listener's address")?;
        listener.set_nonblocking(true).context("could not make the listener non-blocking")?;
        let netns = netns.map(|ns| File::open(ns.file())).transpose().context("could not open the namespace")?;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("forward-{}", address.port()))
            .spawn(move || {
                let entered = netns.map_or(Ok(()), |file| setns(file, CloneFlags::CLONE_NEWNET));
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                match (entered, runtime) {
                    (Ok(()), Ok(runtime)) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(accept(listener, target, stopped));
                    }
                    (Err(errno), _) => drop(ready.send(Err(anyhow::Error::from(errno)))),
                    (_, Err(error)) => drop(ready.send(Err(anyhow::Error::from(error)))),
                }
            })
            .context("could not start a forwarder")?;
        is_ready.recv().context("the forwarder ended at once")?.context("could not start a forwarder")?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut stopped: oneshot::Receiver<()>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => { connections.spawn(carry(near, target)); }
                // Out of descriptors, most likely: let a connection end before the next attempt.
                Err(_) => tokio::task::yield_now().await,
            },
        }
    }
}

async fn carry(mut near: tokio::net::TcpStream, target: SocketAddr) {
    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else {
        return;
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_request_is_a_name_and_perhaps_a_port() {
        assert_eq!("hub".parse::<ForwardRequest>().unwrap(), ForwardRequest { name: "hub".into(), port: 0 });
        assert_eq!("hub=4222".parse::<ForwardRequest>().unwrap().port, 4222);
        assert!("a:b".parse::<ForwardRequest>().is_err());
        assert!("hub=x".parse::<ForwardRequest>().is_err());
    }

    #[test]
    fn descriptions_are_read_back() {
        assert_eq!(parse("a:3,b:4").unwrap(), [("a".to_owned(), 3), ("b".to_owned(), 4)]);
        assert!(parse("").unwrap().is_empty());
        assert!(parse("a").is_err());
    }

    #[test]
    fn bytes_pass_both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&[byte[0] + 1]).unwrap();
        });
        let forward = Forward::start(TcpListener::bind("127.0.0.1:0").unwrap(), None, target).unwrap();
        let mut stream = TcpStream::connect(forward.address()).unwrap();
        stream.write_all(&[41]).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [42]);
        echo.join().unwrap();
    }
}
