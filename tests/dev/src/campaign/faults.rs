//! `cargo dev campaign faults`: `kubenova-campaign` (`tests/campaign`).

use super::driven::Driven;
use crate::command::CampaignOptions;
use crate::plan::Step;

/// Seconds of a round, measured on two cores; the real cluster needs two minutes before the first.
const ROUND_ESTIMATE: u64 = 35;
const START_ESTIMATE: u64 = 120;
/// Faults of the list.
const ROUNDS: u64 = 54;

/// The campaign with these options.
pub(crate) fn campaign(options: &CampaignOptions) -> Driven {
    let rounds = options.rounds.map_or(ROUNDS, u64::from);
    let detail = format!("{rounds} faults while clients write");
    Driven {
        name: "faults",
        program: "kubenova-campaign",
        page: "docs/benchmarks/campaign-faults.md",
        run: Step::new("rounds", &detail, START_ESTIMATE + rounds * ROUND_ESTIMATE),
        arguments: arguments(options),
        has_history: true,
    }
}

fn arguments(options: &CampaignOptions) -> Vec<String> {
    let mut arguments = vec![format!("--seed={}", options.seed)];
    arguments.extend(options.rounds.map(|rounds| format!("--rounds={rounds}")));
    arguments.extend(options.clusters.map(|clusters| format!("--clusters={clusters}")));
    arguments.extend(options.only.as_ref().map(|only| format!("--only={only}")));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_passed_on() {
        let options =
            CampaignOptions { seed: 7, clusters: Some(50), only: Some("broker".into()), ..Default::default() };
        assert_eq!(campaign(&options).arguments, ["--seed=7", "--clusters=50", "--only=broker"]);
    }
}
