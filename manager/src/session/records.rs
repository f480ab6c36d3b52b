//! What a diverged cluster holds: its listing, and the records that this database lost, as the Manager once signed them.
//!
//! Kept for `kubenova-manager recover`, which decides nothing by itself. Before it: `open.rs` refused the hello and asked for
//! them. After it: `manager/src/commands/recover.rs`.

use super::{
    Sessions, Subscribed,
    parts::{self, refusal},
};
use async_nats::Message;
use kubenova_core::{cluster::ClusterId, command::CommandId, recovery};
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message, subjects,
    v1::{ListingAnswer, RecordPiece, RecordsPart},
};
use kubenova_store::{
    connection::Connection,
    diverged_records::{self, Added, BYTES_MAX, Listed, Piece, RECORDS_MAX, RecordsListed},
    error::StoreError,
};

/// Managers that share the records of all clusters.
const GROUP: &str = "manager-records";

/// Takes records in until a stop is requested.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let from = Subscribed { subject: subjects::every::RECORDS, group: Some(GROUP) };
    parts::run(sessions, from, shutdown, |sessions, message| Box::pin(answer(sessions, message))).await;
}

async fn answer(sessions: &Sessions, message: &Message) -> ListingAnswer {
    match read(&message.subject, &message.payload) {
        Ok((cluster, pieces)) => take_pieces(sessions, &cluster, &pieces).await,
        Err(reason) => refusal("RecordsMalformed", reason),
    }
}

fn read(subject: &str, payload: &[u8]) -> Result<(ClusterId, Vec<Piece>), String> {
    let part: RecordsPart = message::from_json(payload).map_err(|error| telemetry::chain(&error))?;
    let cluster = parts::sender(subject, &part.cluster_id)?;
    Ok((cluster, part.pieces.into_iter().map(piece).collect::<Result<_, _>>()?))
}

fn piece(piece: RecordPiece) -> Result<Piece, String> {
    let RecordPiece { key, command_id, signature, total_bytes, offset, bytes } = piece;
    let id = CommandId::parse(&command_id);
    let (Some(command_id), Ok(total_bytes), Ok(offset)) = (id, i64::try_from(total_bytes), i64::try_from(offset))
    else {
        return Err(format!("the piece of \"{key}\" is malformed"));
    };
    Ok(Piece { key, command_id, signature, total_bytes, offset, bytes })
}

/// Takes a part of the listing in, and answers which records are wanted.
pub(super) async fn take_listing(sessions: &Sessions, part: &RecordsListed) -> ListingAnswer {
    let take = async {
        let attempt = "take in the listing of a diverged cluster";
        let taken =
            sessions.store.transaction(attempt, async |tx| diverged_records::take_listing(tx, part).await).await?;
        Ok(match taken {
            Listed::Taken(records_wanted) => ListingAnswer { records_wanted, ..parts::taken() },
            Listed::NotWanted => refusal("ListingNotWanted", "the cluster has not diverged".to_owned()),
            Listed::TooMany => {
                let message = format!(
                    "the Manager keeps {RECORDS_MAX} records of a diverged cluster at most, and this one holds more: restore a \
                     later backup of the database, or enroll the cluster again"
                );
                refusal("TooManyRecords", message)
            }
        })
    };
    parts::in_time(take).await
}

async fn take_pieces(sessions: &Sessions, cluster: &ClusterId, pieces: &[Piece]) -> ListingAnswer {
    let take = sessions.store.transaction("take in records of a diverged cluster", async |tx| {
        for piece in pieces {
            if let Some(refused) = take_piece(tx, sessions, cluster, piece).await? {
                return Ok(refused);
            }
        }
        Ok::<_, StoreError>(parts::taken())
    });
    parts::in_time(take).await
}

/// Takes a piece in. The answer that ends the exchange, if any.
async fn take_piece(
    tx: &mut Connection,
    sessions: &Sessions,
    cluster: &ClusterId,
    piece: &Piece,
) -> Result<Option<ListingAnswer>, StoreError> {
    match diverged_records::add_piece(tx, cluster, piece).await? {
        Added::Partly | Added::NotWanted => Ok(None),
        Added::Misplaced => Ok(Some(refusal("PieceMisplaced", format!("a piece of \"{}\" is missing", piece.key)))),
        Added::TooMuch => {
            let message = format!("the Manager keeps {} MiB of a diverged cluster", BYTES_MAX / 1024 / 1024);
            Ok(Some(refusal("TooMuch", message)))
        }
        Added::Whole(record) => {
            let verified = recovery::verify(
                &record.body,
                &record.signature,
                &sessions.keyring.get().command.ever_accepted(),
                cluster,
                &record.listed,
            );
            let problem = verified.err().map(|not_ours| not_ours.to_string());
            if let Some(problem) = &problem {
                tracing::warn!(key = piece.key, problem, "a diverged cluster sent a record that is not the Manager's");
            }
            diverged_records::record_verified(tx, cluster, &piece.key, problem.as_deref()).await?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

    #[test]
    fn pieces_are_read_only_from_their_own_cluster() {
        let part = RecordsPart {
            cluster_id: CLUSTER.to_owned(),
            pieces: vec![RecordPiece {
                key: "tenant/a".to_owned(),
                command_id: "01930000-0000-7000-8000-000000000001".to_owned(),
                total_bytes: 3,
                bytes: vec![0, 255, 7],
                ..RecordPiece::default()
            }],
        };
        let (cluster, pieces) = read(&subjects::records(CLUSTER), &message::to_json(&part)).unwrap();
        assert_eq!((cluster.as_str(), pieces[0].bytes.as_slice()), (CLUSTER, [0, 255, 7].as_slice()));
        let other = read(&subjects::records("c1123456789abcdefghjkmnpqrs"), &message::to_json(&part));
        assert!(other.unwrap_err().contains("another one"));
        let broken = RecordPiece { command_id: "x".to_owned(), ..RecordPiece::default() };
        let broken = RecordsPart { cluster_id: CLUSTER.to_owned(), pieces: vec![broken] };
        assert!(read(&subjects::records(CLUSTER), &message::to_json(&broken)).unwrap_err().contains("malformed"));
    }
}
