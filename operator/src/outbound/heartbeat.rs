//! The pulse: every few seconds, in no stream. Its absence is what makes a cluster stale at the Manager.

use crate::{apiserver::verbs, context::Context};
use kube::Api;
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::listing;
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{message, subjects, v1::Heartbeat};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two computations of the listing's hash.
const LISTING_INTERVAL: Duration = Duration::from_secs(120);

/// Beats until the process stops.
pub async fn run(ctx: Context) {
    let mut listing = Listing::default();
    let mut beat = tokio::time::interval(ctx.settings.heartbeat());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ctx.shutdown.requested() => return,
            _ = beat.tick() => {}
        }
        listing.refresh(&ctx).await;
        let Some(connection) = ctx.bus.borrow().clone() else { continue };
        let Some(session) = ctx.session.borrow().clone() else { continue };
        failpoint::passing("outbound.heartbeat");
        let heartbeat = Heartbeat {
            cluster_id: ctx.identity.cluster_id().to_owned(),
            boot_id: ctx.boot_id.clone(),
            lease_term: ctx.lease_term,
            epoch: session.epoch,
            session: session.number,
            at: clock::rfc3339_ms(clock::now()),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            highest_revision: listing.highest,
            nodes: 0,
            kubernetes_version: ctx.kubernetes_version.clone(),
            unreceipted_windows: ctx.usage.borrow().unreceipted_windows,
            listing_sha256: listing.sha256.clone(),
        };
        let subject = subjects::heartbeat(ctx.identity.cluster_id());
        if let Err(error) = connection.client.publish(subject, message::to_json(&heartbeat).into()).await {
            tracing::debug!(%error, "could not send a heartbeat");
        }
    }
}

#[derive(Debug, Default)]
struct Listing {
    sha256: String,
    highest: u64,
    at: Option<Instant>,
}

impl Listing {
    async fn refresh(&mut self, ctx: &Context) {
        if self.at.is_some_and(|at| at.elapsed() < LISTING_INTERVAL) {
            return;
        }
        let api: Api<NovaCommand> = Api::namespaced(ctx.apiserver.client(), &ctx.settings.state_namespace);
        if let Ok(records) = verbs::list(&api, "").await {
            self.sha256 = listing::sha256(&records);
            self.highest = listing::highest(&records).map_or(0, |(revision, _)| revision);
            self.at = Some(Instant::now());
        }
    }
}
