//! How each fault is made, and how it ends. When [`inject`] returns, nothing is broken any more; what recovers does so by itself.

mod links;
mod messages;
mod operators;
mod processes;
mod stores;

use std::time::Duration;

use anyhow::Result;
use kubenova_scenarios::failpoints;
use kubenova_scenarios::seed::SplitMix64;

use crate::fault::{Drawn, Fault};
use crate::fleet::Fleet;

/// Makes a fault and ends it.
pub(crate) async fn inject(fleet: &mut Fleet, drawn: &Drawn) -> Result<()> {
    let lasts = drawn.lasts;
    let mut random = SplitMix64::new(drawn.seed);
    match drawn.entry.fault {
        Fault::ManagerKilled => fleet.platform.restart_manager().await?,
        Fault::ManagerPaused => processes::pause_manager(fleet, lasts).await?,
        Fault::ManagerDiesAt(point) => {
            failpoints::serve_with(&mut fleet.platform, point)?;
            failpoints::manager_died_and_back(&mut fleet.platform, point).await?;
        }
        Fault::SecondKilled => processes::kill_second(fleet, lasts).await?,
        Fault::SecondPaused => processes::pause_second(fleet, lasts).await?,
        Fault::SecondCutFromBroker => links::cut(&fleet.second.to_hub, lasts).await,
        Fault::SecondCutFromDatabase => links::cut(&fleet.second.to_postgres, lasts).await,
        Fault::SecondSlow(slow) => links::slow_down_second(fleet, slow, lasts).await,
        Fault::PostgresKilled => processes::kill_postgres(fleet, lasts).await?,
        Fault::PostgresRestarted => processes::restart_postgres(fleet).await?,
        Fault::PostgresPaused => processes::pause(fleet.platform.postgres.process(), lasts).await?,
        Fault::PostgresRestored => stores::restore_postgres(fleet, lasts).await?,
        Fault::BrokerKilled => processes::kill_broker(fleet, lasts).await?,
        Fault::BrokerFlaps => processes::flap_broker(fleet, lasts).await?,
        Fault::BrokerPaused => processes::pause(fleet.platform.hub.process(), lasts).await?,
        Fault::BrokerStoreDeleted => fleet.platform.lose_broker_store().await?,
        Fault::BrokerStoreOld => stores::set_back_broker(fleet, lasts).await?,
        Fault::BrokerStoreDamaged => stores::damage_broker(fleet, &mut random).await?,
        Fault::MessagesRepeated => messages::repeat(fleet).await?,
        Fault::MessagesLost => messages::lose(fleet, lasts).await?,
        Fault::MessagesUnreadable => messages::send_unreadable(fleet).await?,
        Fault::MessagesUnknown => messages::send_unknown(fleet).await?,
        Fault::OperatorKilled => operators::kill(fleet).await?,
        Fault::OperatorPaused => operators::pause(fleet, lasts).await?,
        Fault::OperatorDiesAt(point) => {
            let before = failpoints::start_operator_with(&fleet.site, point)?;
            failpoints::operator_died_and_back(&fleet.site, point, before).await?;
        }
        Fault::OperatorClock(ms) => operators::set_clock(fleet, ms, lasts).await?,
        Fault::TwoOperators => operators::two(fleet, lasts).await?,
        Fault::UplinkCut(cut) => links::cut_uplink(fleet, cut, lasts).await?,
        Fault::ApiserverKilled => operators::kill_apiserver(fleet, lasts).await?,
        Fault::ApiserverPaused => operators::pause_apiserver(fleet, lasts).await?,
        Fault::ClusterCrashed => fleet.site.cluster.crash().await?,
        Fault::ClusterRestored => stores::restore_cluster(fleet, lasts).await?,
        Fault::SimulatedKilled => fleet.simulated.iter_mut().for_each(|cluster| cluster.start()),
        Fault::SimulatedRestored => stores::restore_simulated(fleet, lasts).await,
        Fault::Storm => processes::storm(fleet).await?,
    }
    Ok(())
}

/// How long a fault lasts is drawn, and so is no wait for anything.
async fn last(lasts: Duration) {
    tokio::time::sleep(lasts).await;
}
