//! Lines that are cut: of the second Manager to broker and PostgreSQL, of the real cluster to everything outside it.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::link::{Link, Slow};
use kubenova_env::network::Cut;

use super::last;
use crate::fleet::Fleet;

pub(super) async fn cut(link: &Link, lasts: Duration) {
    link.silence();
    last(lasts).await;
    link.restore();
}

/// Both lines of the second Manager are slow.
pub(super) async fn slow_down_second(fleet: &Fleet, slow: Slow, lasts: Duration) {
    let links = [&fleet.second.to_hub, &fleet.second.to_postgres];
    links.iter().for_each(|link| link.slow_down(slow));
    last(lasts).await;
    links.iter().for_each(|link| link.restore());
}

pub(super) async fn cut_uplink(fleet: &Fleet, cut: Cut, lasts: Duration) -> Result<()> {
    fleet.site.cluster.cut(cut)?;
    last(lasts).await;
    fleet.site.cluster.heal()
}
