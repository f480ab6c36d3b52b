//! Commands that are delivered again change nothing.

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn skew_redelivery_of_every_command_changes_nothing() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    let shop = steps::web_application("shop", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    steps::wait_all_succeeded(&platform, &site, COMMAND_MAX).await?;

    // Every command again, as the relay itself would send it after a lost acknowledgement.
    let before = site.versions()?;
    let sent = |platform: &Platform| -> Result<Vec<(String, i64)>> {
        let rows =
            platform.postgres.query("kubenova", "select id || ' ' || send_count from commands order by revision")?;
        rows.lines()
            .filter_map(|line| line.trim().split_once(' '))
            .map(|(id, count)| Ok((id.to_owned(), count.parse()?)))
            .collect()
    };
    let counts = sent(&platform)?;
    platform.postgres.query(
        "kubenova",
        "update commands set state = 'sent', finished_at = null, running_at = null, acknowledged_at = null, next_send_at = null",
    )?;
    poll::until("every command to be sent and answered again", COMMAND_MAX, || async {
        let now = sent(&platform)?;
        let again = now.iter().zip(&counts).all(|((_, now), (_, before))| now > before);
        let open = platform.postgres.query("kubenova", "select count(*) from commands where state <> 'succeeded'")?;
        Ok(Step::when(again && open.trim() == "0", (), format!("{now:?}, open {}", open.trim())))
    })
    .await?;
    assert_eq!(site.versions()?, before, "left: after redelivery; right: before");

    // One that the broker can never carry fails by itself and delays no other command. REST lets none through (`access_input`).
    platform.postgres.query(
        "kubenova",
        "update commands set state = 'queued', finished_at = null, next_send_at = null, document = repeat('x', 1200000)
         where id = (select id from commands order by revision desc limit 1)",
    )?;
    let cart = steps::web_application("cart", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &cart).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    let ended = platform
        .postgres
        .query("kubenova", "select state || ' ' || reason from commands where length(document) > 1000000")?;
    assert_eq!(ended.trim(), "failed TooLarge");
    Ok(())
}
