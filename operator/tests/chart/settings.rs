//! The settings file, and the environment that says of proxies.

use crate::rendered::{objects, render};
use kubenova_bus::dial::{
    Target,
    proxy::{ProxyFiles, ProxySettings},
};
use kubenova_operator::settings::Settings;
use kubenova_operator_core::tenant::limits::SiteLimits;

fn settings(values: &[&str]) -> Settings {
    let objects = objects("templates/config.yaml", values);
    let text = objects[0]["data"]["operator.yaml"].as_str().expect("there is a settings file");
    let folder = tempfile::tempdir().expect("a folder for temporary files can be written");
    let file = folder.path().join("operator.yaml");
    std::fs::write(&file, text).expect("the file can be written");
    Settings::read(&file).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

/// The value of a variable of the Operator's container, which is there once.
fn variable(values: &[&str], name: &str) -> Option<String> {
    let objects = objects("templates/deployment.yaml", values);
    let variables = objects[0]["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("there are some");
    let mut found = variables.iter().filter(|variable| variable["name"] == name);
    let value = found.next().map(|variable| variable["value"].as_str().expect("it has a value").to_owned());
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

/// The proxy by which a pod with these values reaches a host.
fn proxy(values: &[&str], host: &str) -> Option<String> {
    let read = |name: &'static str| variable(values, name);
    let settings = ProxySettings::read(read, ProxyFiles::default()).expect("it names a proxy");
    settings.for_target(&Target::new(host, 4222)).map(|proxy| proxy.to_string())
}

#[test]
fn the_settings_file_is_read_with_ipv6_addresses_too() {
    assert!(settings(&[]).leaf.is_none());
    let ipv6 = settings(&[
        "leaf.url=tls://[fd00::7]:4222",
        "transport=leaf",
        "tracing.otlpEndpoint=http://[fd00::8]:4318",
        "metrics.enabled=true",
    ]);
    let leaf = ipv6.leaf.as_ref().and_then(|leaf| leaf.target()).map(|target| target.to_string());
    assert_eq!(leaf.as_deref(), Some("[fd00::7]:4222"));
    assert_eq!(ipv6.tracing.otlp_endpoint.as_deref(), Some("http://[fd00::8]:4318"));
    assert!(ipv6.metrics.listen.is_some());
}

#[test]
fn what_the_site_gives_each_tenant_is_read() {
    assert_eq!(settings(&[]).tenants.limits(), SiteLimits::default(), "the chart's defaults are the Operator's");
    let given = settings(&[
        "tenants.quota.storage=1Ti",
        "tenants.quota.storageClasses.fast=10Gi",
        "tenants.quota.loadBalancers=7",
        "tenants.metadataAddresses={192.0.2.1/32}",
    ]);
    let limits = given.tenants.limits();
    assert_eq!((&*limits.storage, &*limits.storage_classes["fast"], limits.load_balancers), ("1Ti", "10Gi", 7));
    assert_eq!(limits.metadata_addresses, ["192.0.2.1/32"]);
}

#[test]
fn what_is_reached_without_a_proxy_counts_whoever_names_the_proxy() {
    const NO: &str = "proxy.noProxy={hub.example,fd00::/8}";
    let found = Some("http://[fd00::1]:3128".to_owned());
    for named in [
        &["proxy.httpsProxy=http://[fd00::1]:3128"][..],
        &["extraEnv[0].name=HTTPS_PROXY", "extraEnv[0].value=http://[fd00::1]:3128"],
    ] {
        let values = [named, &[NO]].concat();
        for direct in ["hub.example", "fd00::7", "kubenova-leaf.kubenova-system.svc"] {
            assert_eq!(proxy(&values, direct), None, "{direct}");
        }
        for through in ["other.example", "2001:db8::7"] {
            assert_eq!(proxy(&values, through), found, "{through}");
        }
    }
    assert_eq!(variable(&[], "NO_PROXY"), None, "whatever puts proxies into pods may set it");
}

#[test]
fn two_values_for_one_variable_are_refused() {
    let refused = |values: &[&str]| render("templates/deployment.yaml", values).err();
    let of = |name: &str, value: &str| [format!("extraEnv[0].name={name}"), format!("extraEnv[0].value={value}")];
    let proxy = "proxy.httpsProxy=http://p:3128";
    for (chart, name) in [
        (proxy, "HTTPS_PROXY"),
        (proxy, "NO_PROXY"),
        ("proxy.noProxy={a.example}", "NO_PROXY"),
        ("proxy.noProxy={a.example}", "no_proxy"),
    ] {
        let [name_value, value] = of(name, "x");
        let message = refused(&[chart, &name_value, &value]).unwrap_or_else(|| panic!("{chart} beside {name}"));
        assert!(message.contains(name) && message.contains("proxy."), "{message}");
        assert_eq!(refused(&[&name_value, &value]), None, "{name} alone");
    }
}
