//! What comes again: nothing happens twice.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::story;

const COMPONENTS_MAX: Duration = Duration::from_secs(240);
const ORDER_MAX: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn skew_redelivery_of_every_command_changes_nothing() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    let shop = story::web_application("shop", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    story::wait_all_succeeded(&platform, &site, ORDER_MAX).await?;

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
    poll::until("every command to be sent and answered again", ORDER_MAX, || async {
        let now = sent(&platform)?;
        let again = now.iter().zip(&counts).all(|((_, now), (_, before))| now > before);
        let open = platform.postgres.query("kubenova", "select count(*) from commands where state <> 'succeeded'")?;
        Ok(Step::when(again && open.trim() == "0", (), format!("{now:?}, open {}", open.trim())))
    })
    .await?;
    assert_eq!(site.versions()?, before, "left: after redelivery; right: before");

    // One that the broker can never carry fails by itself and holds up nobody. REST lets none through (`access_input`).
    platform.postgres.query(
        "kubenova",
        "update commands set state = 'queued', finished_at = null, next_send_at = null, document = repeat('x', 1200000)
         where id = (select id from commands order by revision desc limit 1)",
    )?;
    let cart = story::web_application("cart", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &cart).await?.expect(202)?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    let ended = platform
        .postgres
        .query("kubenova", "select state || ' ' || reason from commands where length(document) > 1000000")?;
    assert_eq!(ended.trim(), "failed TooLarge");
    Ok(())
}
