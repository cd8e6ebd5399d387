//! The fill phase: writes keys once each, in order, many puts in flight.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use proto::etcdserverpb::PutRequest;

use super::ops::{KeySpace, Methods, filler};
use crate::wire::{Channel, Status, authority_of, local_runtime};

/// What to write.
#[derive(Clone, Debug)]
pub struct FillPlan {
    /// Client URL.
    pub endpoint: String,
    /// Keys and values; numbers `first .. first + space.keys` are written.
    pub space: KeySpace,
    /// First key number.
    pub first: u64,
    /// Connections.
    pub connections: usize,
    /// Puts in flight.
    pub in_flight: usize,
}

/// Writes the keys; returns how long it took.
pub fn run(plan: &FillPlan) -> anyhow::Result<Duration> {
    local_runtime()?.block_on(fill(plan))
}

async fn fill(plan: &FillPlan) -> anyhow::Result<Duration> {
    let authority = authority_of(&plan.endpoint)?;
    let methods = Rc::new(Methods::new(&authority)?);
    let value = filler(plan.space.value_bytes);
    let next = Rc::new(Cell::new(plan.first));
    let end = plan.first + plan.space.keys;
    let mut channels = Vec::new();
    for _ in 0..plan.connections.max(1) {
        channels.push(
            Channel::connect(&authority).await.with_context(|| format!("cannot connect to {authority}"))?,
        );
    }
    let begun = Instant::now();
    let writers = (0..plan.in_flight.max(1)).map(|number| {
        let channel = channels[number % channels.len()].clone();
        let (methods, next, value, space) =
            (methods.clone(), next.clone(), value.clone(), plan.space.clone());
        async move {
            loop {
                let number = next.get();
                if number >= end {
                    return Ok::<(), Status>(());
                }
                next.set(number + 1);
                let request =
                    PutRequest { key: space.key(number), value: value.clone(), ..Default::default() };
                channel.call_unread(&methods.put, &request).await?;
            }
        }
    });
    let tasks: Vec<_> = writers.map(tokio::task::spawn_local).collect();
    for task in tasks {
        task.await??;
    }
    Ok(begun.elapsed())
}
