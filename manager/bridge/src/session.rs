//! One session: bytes between a cluster and the broker, both ways at once, each at the pace of its receiver.

use crate::metrics::{DirectionLabels, Metrics};
use bytes::{BufMut as _, BytesMut};
use kubenova_bus::{
    bridge::{CHUNK, problem::BridgeProblem, proto::Frame},
    relay::broker::{Greeted, Secured},
};
use kubenova_runtime::shutdown::Shutdown;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::mpsc,
    time::timeout,
};
use tonic::{Status, Streaming};

/// A side that takes nothing for so long ends the session: it holds memory, and the broker would have given it up much sooner.
const STALLED: Duration = Duration::from_secs(60);
/// Once the cluster has ended its side, what the broker still brings.
const LINGER: Duration = Duration::from_secs(5);

/// What a session needs.
pub(crate) struct Session {
    pub(crate) from_cluster: Streaming<Frame>,
    pub(crate) to_cluster: mpsc::Sender<Result<Frame, Status>>,
    pub(crate) broker: Greeted,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    pub(crate) end_after: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides are through.
    Closed,
    /// The cluster's side broke, or it gave the session up.
    Lost,
    /// The last status says why.
    Problem(BridgeProblem, String),
}

impl End {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::Problem(problem, _) => problem.name(),
        }
    }
}

type ToCluster = mpsc::Sender<Result<Frame, Status>>;

/// Passes bytes until one side ends, or the bridge stops.
pub(crate) async fn run(session: Session) -> End {
    let Session { from_cluster, to_cluster, broker, metrics, shutdown, end_after } = session;
    let (from_broker, to_broker) = tokio::io::split(broker.stream);
    let count = |direction| metrics.bytes.get_or_create_owned(&DirectionLabels { direction });
    let (up_bytes, down_bytes) = (count("from_cluster"), count("to_cluster"));
    let down = async {
        if to_cluster.send(Ok(Frame { data: broker.info.into() })).await.is_err() {
            return End::Lost;
        }
        down(from_broker, &to_cluster, |bytes| {
            down_bytes.inc_by(bytes);
        })
        .await
    };
    let up = up(from_cluster, to_broker, |bytes| {
        up_bytes.inc_by(bytes);
    });
    let stopped = async {
        shutdown.requested().await;
        tokio::time::sleep(end_after).await;
    };
    tokio::pin!(down);
    let end = tokio::select! {
        end = &mut down => end,
        up = up => match up {
            // The broker closes its side, too, and may have something to say before.
            None => timeout(LINGER, down).await.unwrap_or(End::Closed),
            Some(end) => end,
        },
        () = to_cluster.closed() => End::Lost,
        () = stopped => End::Problem(BridgeProblem::Draining, "connect again".to_owned()),
    };
    if let End::Problem(problem, message) = &end {
        // One that takes nothing learns it from the end of the stream.
        let _stalled = timeout(LINGER, to_cluster.send(Err(problem.status(message)))).await;
    }
    end
}

/// None once the cluster has sent everything.
async fn up(mut from: Streaming<Frame>, mut to: WriteHalf<Secured>, count: impl Fn(u64)) -> Option<End> {
    loop {
        let frame = match from.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => return Some(End::Lost),
        };
        let written = async {
            to.write_all(&frame.data).await?;
            // Else the end of a message may wait in the TLS layer.
            to.flush().await
        };
        match timeout(STALLED, written).await {
            Ok(Ok(())) => count(frame.data.len() as u64),
            // Why the broker closed the connection may still come from it.
            Ok(Err(_)) => return None,
            Err(_) => return Some(stalled("the broker")),
        }
    }
    let _closed_already = to.shutdown().await;
    None
}

async fn down(mut from: ReadHalf<Secured>, to: &ToCluster, count: impl Fn(u64)) -> End {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    loop {
        // What was sent is given back once HTTP/2 has written it.
        chunk.reserve(CHUNK);
        let mut room = (&mut chunk).limit(CHUNK);
        match from.read_buf(&mut room).await {
            Ok(0) => return End::Closed,
            Ok(read) => count(read as u64),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return End::Closed,
            Err(error) => return End::Problem(BridgeProblem::Broker, format!("the connection broke: {error}")),
        }
        match timeout(STALLED, to.send(Ok(Frame { data: chunk.split().freeze() }))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Lost,
            Err(_) => return stalled("the cluster"),
        }
    }
}

fn stalled(who: &str) -> End {
    End::Problem(BridgeProblem::Stalled, format!("{who} took nothing for {} s", STALLED.as_secs()))
}
