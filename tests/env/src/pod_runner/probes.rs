//! Probes, as a kubelet makes them: from the node for HTTP and TCP, in the container for commands.
//!
//! One difference: before the first success a probe is tried every tenth of a second and
//! `initialDelaySeconds` is not waited for, because charts' delays are made for slow image pulls.
//! HTTPS probes only connect.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::network::ClusterNetwork;

/// Where a probe or a handle finds the running container.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    pub(crate) pid: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) environment: BTreeMap<String, String>,
}

/// The pause between tries until the first success.
pub(crate) const EAGER: Duration = Duration::from_millis(100);

/// The pause between tries afterwards.
pub(crate) fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10)
}

/// How many failures in a row count.
pub(crate) fn failure_threshold(probe: &Probe) -> u32 {
    probe.failure_threshold.and_then(|count| u32::try_from(count).ok()).unwrap_or(3)
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default).max(1))
}

/// Tries once; an error says why it failed.
pub(crate) async fn attempt(
    probe: &Probe,
    container: &Container,
    network: &ClusterNetwork,
    inside: &Inside,
) -> Result<()> {
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(exec) = &probe.exec {
        let words = exec.command.clone().unwrap_or_default();
        return tokio::time::timeout(timeout, command(&words, inside))
            .await
            .with_context(|| format!("the command did not end within {timeout:?}"))?;
    }
    if let Some(http) = &probe.http_get {
        let address = SocketAddr::new(inside.address.into(), port(&http.port, container)?);
        let path = http.path.clone().unwrap_or_else(|| "/".to_owned());
        let secure = http.scheme.as_deref() == Some("HTTPS");
        return from_node(network, move || {
            if secure { connect(address, timeout).map(drop) } else { get(address, &path, timeout) }
        })
        .await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = SocketAddr::new(inside.address.into(), port(&tcp.port, container)?);
        return from_node(network, move || connect(address, timeout).map(drop)).await;
    }
    bail!("a kind of probe this runner does not know")
}

async fn command(words: &[String], inside: &Inside) -> Result<()> {
    // Not the container's process namespace: nsenter would fork, and a timeout kill only the fork's parent.
    let output = tokio::process::Command::new("nsenter")
        .arg(format!("--target={}", inside.pid))
        .args(["--mount", "--net", "--uts", "--ipc", "--root", "--"])
        .args(words)
        .env_clear()
        .envs(&inside.environment)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("could not start the command")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("the command ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// Runs `work` on a thread in the cluster's namespace, where a kubelet would be.
async fn from_node(network: &ClusterNetwork, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    network.netns().spawn(move || drop(done.send(work())))?;
    outcome.await.context("the probe's thread ended")?
}

fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    TcpStream::connect_timeout(&address, timeout).with_context(|| format!("could not connect to {address}"))
}

fn get(address: SocketAddr, path: &str, timeout: Duration) -> Result<()> {
    let mut stream = connect(address, timeout)?;
    stream.set_read_timeout(Some(timeout)).context("could not set a timeout")?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("could not ask")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).context("no answer")?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    let status = status(&answer).with_context(|| format!("not an HTTP answer: {answer:?}"))?;
    if !(200..400).contains(&status) {
        bail!("HTTP probe failed with status code {status}");
    }
    Ok(())
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.get(..3)?.parse().ok()
}

fn port(port: &IntOrString, container: &Container) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .with_context(|| format!("the container has no port named {name:?}"))?,
    };
    u16::try_from(number).with_context(|| format!("{number} is not a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_answer_is_read() {
        assert_eq!(status("HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status("HTTP/1.0 503 Service"), Some(503));
        assert_eq!(status("SSH-2.0"), None);
    }

    #[test]
    fn ports_have_names() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "healthz", "containerPort": 9440}],
        }))
        .unwrap();
        assert_eq!(port(&IntOrString::String("healthz".into()), &container).unwrap(), 9440);
        assert_eq!(port(&IntOrString::Int(80), &container).unwrap(), 80);
        assert!(port(&IntOrString::String("x".into()), &container).is_err());
    }
}
