//! `cargo dev campaign`: checks that need more than CI has, in time or in programs. A campaign says what it will do, keeps
//! a log of each program, and writes what came out to `docs/benchmarks`.

mod clients;
mod driven;
mod faults;
mod inbox;
mod report;
mod schemathesis;
mod server;
mod toolchain;
mod transports;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum as _;

use crate::command::{CampaignName, CampaignOptions};
use crate::places::Places;
use crate::progress::print;

/// `cargo dev campaign`.
pub(crate) fn command(places: &Places, options: &CampaignOptions) -> Result<ExitCode> {
    match options.name {
        Some(CampaignName::Clients) => clients::command(places, options),
        Some(CampaignName::Faults) => driven::command(places, faults::campaign(options), options.plan),
        Some(CampaignName::Inbox) => driven::command(places, inbox::campaign(options), options.plan),
        Some(CampaignName::Transports) => transports::command(places, options),
        None => {
            list().iter().for_each(print);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One line a campaign.
fn list() -> Vec<String> {
    let values = CampaignName::value_variants().iter().filter_map(CampaignName::to_possible_value);
    let line = |value: clap::builder::PossibleValue| {
        format!("  {}  {}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default())
    };
    values.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_each_campaign_does() {
        let list = list();
        assert_eq!(list.len(), CampaignName::value_variants().len());
        assert!(list[0].contains("clients  schemathesis against"), "{}", list[0]);
        assert!(list[1].contains("faults  every process killed"), "{}", list[1]);
        assert!(list[2].contains("inbox  one cluster with thousands"), "{}", list[2]);
        assert!(list[3].contains("transports  every scenario"), "{}", list[3]);
    }
}
