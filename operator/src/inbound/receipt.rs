//! Receipts: signed lists of usage windows that the Manager has. Handed to metering, and acknowledged once the reports
//! are marked.

use crate::{join::current::CurrentIdentity, metering::receipt::ReceiptDelivery};
use kubenova_bus::consume::{Delivery, Verdict};
use kubenova_operator_core::{command::Recipient, metering::receipts};
use kubenova_runtime::telemetry;
use kubenova_schema::{signature, v1::ReceiptList};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Metering works through its few waiting lists within seconds.
const REDELIVER_AFTER: Duration = Duration::from_secs(5);

pub(super) struct Receipts {
    identity: CurrentIdentity,
    metering: mpsc::Sender<ReceiptDelivery>,
}

impl Receipts {
    pub(super) const fn new(identity: CurrentIdentity, metering: mpsc::Sender<ReceiptDelivery>) -> Self {
        Self { identity, metering }
    }

    pub(super) fn take(&self, delivery: Delivery) -> Verdict {
        let list = match self.read(&delivery) {
            Ok(list) => list,
            Err(reason) => return Verdict::Terminate(reason),
        };
        let (marked, is_marked) = oneshot::channel();
        if self.metering.try_send(ReceiptDelivery { list, marked }).is_err() {
            return Verdict::Later(REDELIVER_AFTER);
        }
        // Only this message waits for metering, not the commands behind it.
        let acknowledger = delivery.acknowledger;
        tokio::spawn(async move {
            let verdict = if is_marked.await.is_ok() { Verdict::Done } else { Verdict::Later(REDELIVER_AFTER) };
            acknowledger.answer(&verdict).await;
        });
        Verdict::Held
    }

    fn read(&self, delivery: &Delivery) -> Result<ReceiptList, String> {
        let identity = self.identity.get();
        let recipient = Recipient { cluster_id: identity.cluster_id(), cluster_uid: identity.cluster_uid() };
        let signature = delivery.header(signature::HEADER);
        receipts::verify(&delivery.payload, signature, &identity.command_keys(), recipient)
            .map_err(|error| telemetry::chain(&error))
    }
}
