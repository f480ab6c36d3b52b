//! The command line of `cargo dev`.
//!
//! Parsing touches nothing: a mistake is reported before any work starts, with the nearest command or option.

use std::ffi::OsString;
use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Examples and variables, below clap's own help.
const AFTER_HELP: &str = "\
Examples:
  cargo dev demo             see it work
  cargo dev check            before a commit: minutes, no cluster
  cargo dev test             what CI runs
  cargo dev test placement   only the tests with `placement` in their name

Environment:
  KUBENOVA_CACHE     where servers and build results go (~/.cache/kubenova)
  CARGO_TARGET_DIR   where Rust builds go (target/ in the cache)";

/// Builds, tests and runs KubeNova on real servers.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev", after_help = AFTER_HELP)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Runs the whole product on this machine, walks through it, and prints a URL to open
    Demo(DemoOptions),
    /// Runs Manager, hub and clusters with Capsule and KubeVela, without tenants, until Ctrl-C
    Up(UpOptions),
    /// Everything CI runs; with a filter, only tests whose name contains it
    Test(TestOptions),
    /// The part of `test` that needs no server but PostgreSQL
    Check,
    /// Breaks one rule after the other in a debug build, and sees that a test notices each
    Mutants {
        /// Only those whose name contains this
        filter: Option<String>,
    },
    /// Rewrites the derived files: queries, CRDs, OpenAPI, error and metric pages
    Gen {
        /// Passed on to the generator; `--check` writes nothing and fails when a file is stale
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Prints sizes of files and functions, tests beside code, harness per scenario
    Measure {
        /// Replace the table in docs/development.md
        #[arg(long)]
        write: bool,
    },
    /// Builds the real servers that are missing
    Servers {
        /// Print what is there, what is missing and how long it takes, and stop
        #[arg(long)]
        plan: bool,
        /// Only these
        names: Vec<String>,
    },
    /// Measures in release builds, as ratios to the raw stage
    Bench {
        /// Which; without a name the benchmarks are listed
        name: Option<BenchmarkName>,
        /// Its options; `cargo dev bench <name> -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Builds the images of Operator and Manager, in release builds, as OCI layouts
    Images {
        /// Its options; `cargo dev images -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Checks that need more than CI has, in time or in programs; without a name they are listed
    Campaign(CampaignOptions),
    /// Removes what the cache holds
    Clean {
        /// Remove without a question
        #[arg(long, short)]
        yes: bool,
    },
}

/// How `cargo dev test` runs.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct TestOptions {
    /// Only tests whose name contains this
    pub(crate) filter: Option<String>,
    /// Scenarios at once; from two on, one more of those that mostly wait runs beside them
    #[arg(long, env = "KUBENOVA_TEST_THREADS", default_value = "2")]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// How the demo runs.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct DemoOptions {
    /// Walk through everything, print the result, stop and clean up
    #[arg(long)]
    once: bool,
    /// Copy the data folder beside the logs before it is removed
    #[arg(long)]
    keep: bool,
    /// Print what would be built and run, and stop
    #[arg(long)]
    plan: bool,
}

/// How clusters are brought up.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct UpOptions {
    /// End when everything was seen to work
    #[arg(long, conflicts_with = "bare")]
    once: bool,
    /// Only the clusters: no Manager, no Operator, nothing installed
    #[arg(long)]
    bare: bool,
    /// How many clusters; each takes about 600 MiB of memory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    clusters: u8,
    /// Print what would be built and run, and stop
    #[arg(long)]
    plan: bool,
}

/// How a campaign runs.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct CampaignOptions {
    /// Which; without a name the campaigns are listed
    pub(crate) name: Option<CampaignName>,
    /// Seed of everything random in it; the same seed does the same
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Of `faults`: how many; each of its list once when none is given
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Of `faults`: simulated clusters, beside a real one (24 when none is given)
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) clusters: Option<u32>,
    /// Of `faults` and `transports`: only those whose name contains this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Of `inbox`: commands of the one cluster (6,000 when none is given)
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) commands: Option<u32>,
    /// Print what would be run, and stop
    #[arg(long)]
    pub(crate) plan: bool,
}

/// The campaigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CampaignName {
    /// schemathesis against the REST API, and a client in each of four languages made from its OpenAPI document
    Clients,
    /// every process killed and paused, every line cut, every store lost or set back, while clients write to many clusters
    Faults,
    /// one cluster with thousands of commands among others, while Operator, Manager and broker start again
    Inbox,
    /// every scenario once more with clusters that reach the broker by leaf nodes, in a WebSocket, and by the gRPC bridge
    Transports,
}

/// The benchmarks, as `kubenova-bench` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchmarkName {
    /// H1: from the first byte of a REST request to the object in the cluster and back, against the raw chain
    CommandLatency,
    /// H3: commands accepted and sent a second, against raw transactions and raw publishes
    CommandThroughput,
    /// H5, H7: thousands of simulated clusters: what they cost, the broker's restart, the loss of its store
    Fleet,
    /// H2: bursts of writes at once, the last against the first
    Bursts,
    /// H9: command latency and every list with up to a million ended commands, and with more clusters and tenants
    History,
    /// H8: from an enrollment token to the first applied command, one cluster and a thousand at once; revocations
    Joins,
    /// a thousand sessions in one bridge: memory, processor time, and how they pass to another replica
    BridgeSessions,
}

/// The names of a kind of work that needs one, each with what it does.
pub(crate) fn listed<V: ValueEnum>(title: &str) -> String {
    let mut text = format!("{title}\n");
    for value in V::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("  {:<18} {help}\n", value.get_name()));
    }
    text
}

/// A driver of the product, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// The command, for messages and logs.
    pub(crate) verb: &'static str,
    /// The program that is started when everything is built.
    pub(crate) program: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Only print the plan.
    pub(crate) plan_only: bool,
}

/// The flags that are set, as arguments.
fn flags(flags: &[(bool, &str)]) -> Vec<String> {
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| format!("--{name}")).collect()
}

impl From<DemoOptions> for Drive {
    fn from(options: DemoOptions) -> Self {
        let args = flags(&[(options.once, "once"), (options.keep, "keep")]);
        Self { verb: "demo", program: "kubenova-demo", args, plan_only: options.plan }
    }
}

impl From<UpOptions> for Drive {
    fn from(options: UpOptions) -> Self {
        let mut args = flags(&[(options.once, "once"), (!options.bare, "empty")]);
        args.push(format!("--clusters={}", options.clusters));
        let program = if options.bare { "kubenova-clusters" } else { "kubenova-demo" };
        Self { verb: "up", program, args, plan_only: options.plan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parsed(line: &str) -> Result<Command, String> {
        let words = std::iter::once("cargo dev").chain(line.split_whitespace());
        CommandLine::try_parse_from(words).map(|line| line.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn test_takes_a_filter_and_threads() {
        let options = TestOptions { filter: Some("placement".into()), threads: NonZeroUsize::new(3) };
        assert_eq!(parsed("test placement --threads 3"), Ok(Command::Test(options)));
        assert!(parsed("test --threads 0").unwrap_err().contains("--threads"));
    }

    #[test]
    fn demo_and_up_become_the_arguments_of_their_drivers() {
        let drive = |line: &str| match parsed(line).unwrap() {
            Command::Demo(options) => Drive::from(options),
            Command::Up(options) => Drive::from(options),
            other => panic!("{other:?}"),
        };
        let demo = drive("demo --once --plan");
        assert_eq!((demo.program, demo.args, demo.plan_only), ("kubenova-demo", vec!["--once".to_owned()], true));
        let up = drive("up --clusters 3");
        assert_eq!((up.program, up.args.join(" ")), ("kubenova-demo", "--empty --clusters=3".to_owned()));
        let bare = drive("up --bare");
        assert_eq!((bare.program, bare.args.join(" ")), ("kubenova-clusters", "--clusters=1".to_owned()));
    }

    #[test]
    fn a_mistake_gets_the_nearest_command_or_option() {
        assert!(parsed("tets").unwrap_err().contains("'test'"));
        assert!(parsed("servers --pln").unwrap_err().contains("--plan"));
    }

    #[test]
    fn a_campaign_has_a_seed_and_may_only_be_planned() {
        let seeded = |name, seed| CampaignOptions { name, seed, ..CampaignOptions::default() };
        let options = CampaignOptions { plan: true, ..seeded(Some(CampaignName::Clients), 7) };
        assert_eq!(parsed("campaign clients --seed 7 --plan"), Ok(Command::Campaign(options)));
        assert_eq!(parsed("campaign"), Ok(Command::Campaign(seeded(None, 1))));
        let options = CampaignOptions { rounds: Some(3), clusters: Some(50), ..seeded(Some(CampaignName::Faults), 1) };
        assert_eq!(parsed("campaign faults --rounds 3 --clusters 50"), Ok(Command::Campaign(options)));
        assert!(parsed("campaign faults --clusters 1").unwrap_err().contains("--clusters"));
        assert!(parsed("campaign client").unwrap_err().contains("'clients'"));
    }

    #[test]
    fn a_benchmark_gets_its_own_options() {
        let args = ["--rate", "3", "--help"].map(OsString::from).to_vec();
        let name = Some(BenchmarkName::CommandLatency);
        assert_eq!(parsed("bench command-latency --rate 3 --help"), Ok(Command::Bench { name, args }));
        assert_eq!(parsed("bench"), Ok(Command::Bench { name: None, args: Vec::new() }));
        assert!(parsed("bench command-latenc").unwrap_err().contains("'command-latency'"));
        let list = listed::<BenchmarkName>("benchmarks:");
        assert!(list.contains("\n  command-latency    H1: "), "{list}");
    }

    #[test]
    fn as_many_clusters_as_the_driver_has_names_for() {
        for number in [0, 5, 99] {
            assert!(parsed(&format!("up --clusters {number}")).unwrap_err().contains("1..=4"), "{number}");
        }
    }
}
