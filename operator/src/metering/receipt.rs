//! A receipt list on its way from `inbound` to the publisher.

use kubenova_schema::v1::ReceiptList;
use tokio::sync::oneshot;

/// A receipt list whose signature was verified. Its message is acknowledged once `marked` is answered; when `marked` is
/// dropped, it is delivered again.
#[derive(Debug)]
pub struct ReceiptDelivery {
    pub list: ReceiptList,
    /// Answered once the list's windows are marked as received.
    pub marked: oneshot::Sender<()>,
}
