//! Lines that are cut: of the second Manager to broker and PostgreSQL, of the real cluster to everything outside it.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::link::Link;
use kubenova_env::network::Cut;

use super::last;
use crate::fleet::Fleet;

pub(super) async fn cut(link: &Link, lasts: Duration) {
    link.silence();
    last(lasts).await;
    link.restore();
}

pub(super) async fn cut_uplink(fleet: &Fleet, cut: Cut, lasts: Duration) -> Result<()> {
    fleet.site.cluster.cut(cut)?;
    last(lasts).await;
    fleet.site.cluster.heal()
}
