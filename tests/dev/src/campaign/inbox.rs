//! `cargo dev campaign inbox`: `kubenova-campaign-inbox` (`tests/campaign`).

use super::driven::Driven;
use crate::command::CampaignOptions;
use crate::plan::Step;

/// Commands when no number is given.
const COMMANDS: u64 = 6_000;
/// Seconds for a thousand commands, simulated and real, on two cores; the rest is what starts again.
const THOUSAND_ESTIMATE: u64 = 180;
const REST_ESTIMATE: u64 = 300;

/// The campaign with these options.
pub(crate) fn campaign(options: &CampaignOptions) -> Driven {
    let commands = options.commands.map_or(COMMANDS, u64::from);
    let detail = format!("{commands} commands of one cluster among others, simulated and real");
    Driven {
        name: "inbox",
        program: "kubenova-campaign-inbox",
        page: "docs/benchmarks/campaign-inbox.md",
        run: Step::new("commands", &detail, REST_ESTIMATE + commands * THOUSAND_ESTIMATE / 1_000),
        arguments: vec![format!("--seed={}", options.seed), format!("--commands={commands}")],
        has_history: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_passed_on() {
        let options = CampaignOptions { seed: 7, ..Default::default() };
        assert_eq!(campaign(&options).arguments, ["--seed=7", "--commands=6000"]);
        let options = CampaignOptions { commands: Some(100), ..options };
        assert_eq!(campaign(&options).arguments, ["--seed=7", "--commands=100"]);
    }
}
