//! The schema tool with all tables, warm, against the date tool.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Settings, round};
use crate::{
    report::{Aim, Report, Row},
    wire::{Wire, tool_call},
    world::World,
};

const ROUND: Duration = Duration::from_millis(600);

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let token = world.token("seattle-manager")?;
    let schema = tool_call(world.url(), &token, "get_multiple_table_schemas", json!({}))?;
    let date = tool_call(world.url(), &token, "get_current_utc_date", json!({}))?;
    let mut ours = Wire::many(world.url(), &schema, 4).await?;
    let mut theirs = Wire::many(world.url(), &date, 4).await?;
    let (mut cpu, mut p50) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let (our_cpu, load, back) = round(world.gateway_pid(), ours, ROUND).await?;
        ours = back;
        let (their_cpu, _, back) = round(world.gateway_pid(), theirs, ROUND).await?;
        theirs = back;
        cpu.push((our_cpu, their_cpu));
        p50.push(load.ms(0.5));
    }
    let what = "schema tool with all tables, warm, CPU per call";
    report.add(Row::ratio("schema.cpu", what, "the date tool", "µs", Aim::AtMost(2.0), &cpu));
    report.add(Row::absolute("schema.p50", "schema tool, p50 at 4", "ms", Aim::Smaller, &p50));
    Ok(())
}
