//! A gateway that has 10, 1,000 and 10,000 tenants loaded: what a call costs, what a tenant takes, how soon a change acts.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use storefence_devstack::entra::principals;

use super::{Settings, round};
use crate::{
    process,
    report::{Aim, Report, Row},
    wire::{Wire, tool_call},
    world::{Gateway, World, unlimited},
};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ROUND: Duration = Duration::from_millis(600);

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let mut gateways: Vec<(Gateway, Vec<Wire>, f64)> = Vec::new();
    let token = world.token("seattle-manager")?;
    for size in SIZES {
        println!("a gateway with {size} tenants");
        let directory = world.directory.path().join(format!("tenants-{size}"));
        std::fs::create_dir(&directory)?;
        for number in 0..size {
            write(&directory, number, true)?;
        }
        let path = directory.display().to_string();
        let mut gateway = world.gateway(&format!("tenants-{size}"), &["--tenants", &path])?;
        let ready = gateway.ready(Duration::from_secs(60)).await?;
        if size == SIZES[2] {
            let what = format!("start to ready with {size} tenants");
            report.add(Row::absolute("tenants.ready", &what, "ms", Aim::Smaller, &[ready.as_secs_f64() * 1e3]));
        }
        let url = format!("{}/{}/mcp", gateway.url, id(size / 2));
        let request = tool_call(&url, &token, "get_current_utc_date", json!({}))?;
        let wires = Wire::many(&gateway.url, &request, 4).await?;
        let resident = process::resident_mib(gateway.child.pid()).0;
        gateways.push((gateway, wires, resident));
    }
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); SIZES.len()];
    for number in 0..=settings.rounds {
        for ((gateway, wires, _), rounds) in gateways.iter_mut().zip(&mut rounds) {
            let (cpu, _, back) = round(gateway.child.pid(), std::mem::take(wires), ROUND).await?;
            *wires = back;
            if number > 0 {
                rounds.push(cpu);
            }
        }
    }
    for (at, size) in SIZES.into_iter().enumerate().skip(1) {
        let pairs: Vec<_> = rounds[at].iter().copied().zip(rounds[0].iter().copied()).collect();
        let what = format!("date tool with {size} tenants loaded, CPU per call");
        report.add(Row::ratio(&format!("tenants.cpu.{size}"), &what, "10 tenants", "µs", Aim::AtMost(1.1), &pairs));
        let more = (gateways[at].2 - gateways[0].2) * 1024.0 / (size - SIZES[0]) as f64;
        let what = format!("memory per tenant, from 10 to {size}");
        report.add(Row::absolute(&format!("tenants.memory.{size}"), &what, "KiB", Aim::AtMost(4.0), &[more]));
    }
    let (gateway, wires, _) = gateways.last_mut().ok_or_else(|| anyhow::anyhow!("no gateway"))?;
    let directory = world.directory.path().join(format!("tenants-{}", SIZES[2]));
    let mut times = Vec::new();
    for number in 0..settings.rounds * 2 {
        let granted = number % 2 == 1;
        let begun = Instant::now();
        write(&directory, SIZES[2] / 2, granted)?;
        let served = async |wire: &mut Wire| -> Result<bool> {
            let status = wire.exchange().await?;
            ensure!(status == 200, "{status}");
            Ok(!String::from_utf8_lossy(wire.body()).contains(r#""isError":true"#))
        };
        while served(&mut wires[0]).await? != granted {
            ensure!(begun.elapsed() < Duration::from_secs(30), "a change did not act: {}", gateway.child.log_tail(10));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    let what = format!("a tenant's change acts, {} tenants in a directory", SIZES[2]);
    report.add(Row::absolute("tenants.change", &what, "s", Aim::AtMost(1.0), &times));
    for (gateway, ..) in gateways {
        gateway.stop().await?;
    }
    Ok(())
}

fn id(number: usize) -> String {
    format!("t-{number:05}")
}

/// A tenant of four stores and three rules, of which one is the caller's.
fn write(directory: &Path, number: usize, granted: bool) -> Result<()> {
    let store = |at: usize| {
        let id = uuid::Uuid::from_u128(((number as u128) << 32) + at as u128 + 1);
        json!({"name": format!("Store {at}"), "id": id})
    };
    let oid = if granted { principals::SEATTLE_MANAGER_OID } else { "00000000-0000-4000-8000-000000000009" };
    let object = json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant", "metadata": {"name": id(number)},
        "spec": {
            "tenantId": id(number), "displayName": format!("Tenant {number}"),
            "entra": {"tenantId": principals::ZAVA_TENANT_ID},
            "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
            "stores": [store(0), store(1), store(2), store(3)],
            "principals": [
                {"name": "head-office", "role": "HeadOffice", "appRole": format!("HeadOffice.{number}")},
                {"name": "manager", "role": "StoreManager", "entraUser": oid, "stores": ["Store 0"]},
                {"name": "north", "role": "RegionalManager", "entraGroup": uuid::Uuid::from_u128(number as u128), "stores": ["Store 1", "Store 2"]},
            ],
            "gateway": unlimited(),
        },
    });
    // Renamed into place, as whatever keeps such a directory should do.
    let (temporary, file) = (directory.join(format!(".{number}")), directory.join(format!("{}.yaml", id(number))));
    std::fs::write(&temporary, object.to_string())?;
    std::fs::rename(temporary, file)?;
    Ok(())
}
