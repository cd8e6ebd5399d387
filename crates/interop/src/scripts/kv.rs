//! Range, Put, DeleteRange, Compact.

use bytes::Bytes;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use super::{FROM_KEY, delete, get, put, range};
use crate::script::Script;

/// Single keys: revisions, versions, previous values, ignore flags.
pub async fn puts(s: &mut Script) -> anyhow::Result<()> {
    s.range("kv/get from an empty store", get("a")).await;
    s.put("kv/first put", put("a", "1")).await;
    s.put("kv/second put", PutRequest { prev_kv: true, ..put("a", "2") }).await;
    s.put("kv/prev_kv of a new key", PutRequest { prev_kv: true, ..put("b", "") }).await;
    s.range("kv/get", get("a")).await;
    s.range("kv/get an empty value", get("b")).await;
    s.put("kv/empty key", put("", "x")).await;
    s.range("kv/get with an empty key", get("")).await;
    s.put("kv/ignore_value", PutRequest { ignore_value: true, prev_kv: true, ..put("a", "") }).await;
    s.put("kv/ignore_value with a value", PutRequest { ignore_value: true, ..put("a", "x") }).await;
    s.put("kv/ignore_value of a missing key", PutRequest { ignore_value: true, ..put("zz", "") }).await;
    s.put("kv/ignore_lease", PutRequest { ignore_lease: true, ..put("a", "3") }).await;
    s.put("kv/ignore_lease with a lease", PutRequest { ignore_lease: true, lease: 9, ..put("a", "3") }).await;
    s.put("kv/ignore_lease of a missing key", PutRequest { ignore_lease: true, ..put("zz", "3") }).await;
    s.put("kv/unknown lease", PutRequest { lease: 77, ..put("a", "4") }).await;
    s.put("kv/unknown negative lease", PutRequest { lease: -1, ..put("a", "4") }).await;
    s.put("kv/unknown lease and missing key", PutRequest { lease: 77, ignore_value: true, ..put("zz", "") })
        .await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let binary =
        PutRequest { key: Bytes::from(all_bytes.clone()), value: all_bytes.into(), ..Default::default() };
    s.put("kv/binary key and value", binary.clone()).await;
    s.range("kv/get a binary key", RangeRequest { key: binary.key, ..Default::default() }).await;
    s.put("kv/1 MiB value", put("big", &"v".repeat(1 << 20))).await;
    s.put("kv/value over the limit", put("big", &"v".repeat(1_572_864))).await;
    s.put("kv/value over the receive limit", put("big", &"v".repeat(2_100_000))).await;
    s.delete("kv/delete the big value", delete("big", "")).await;
    s.range("kv/revision after the refused ones", get("a")).await;
    Ok(())
}

/// Deletions and re-creations.
pub async fn deletes(s: &mut Script) -> anyhow::Result<()> {
    for key in ["a", "b", "c", "d", "e", "e1"] {
        s.seed(key, "v").await?;
    }
    s.delete("del/one", delete("a", "")).await;
    s.delete("del/again", delete("a", "")).await;
    s.delete("del/nothing keeps the revision", delete("nosuch", "nosuci")).await;
    s.put("del/created anew", PutRequest { prev_kv: true, ..put("a", "2") }).await;
    s.range("del/a new generation", get("a")).await;
    let with_previous = |request| DeleteRangeRequest { prev_kv: true, ..request };
    s.delete("del/range with prev_kv", with_previous(delete("b", "d"))).await;
    s.delete("del/reversed range", delete("e", "b")).await;
    s.delete("del/equal bounds", delete("e", "e")).await;
    s.delete("del/empty key", delete("", "")).await;
    s.delete("del/empty key with an end", delete("", "z")).await;
    s.delete("del/from key", with_previous(delete("e", FROM_KEY))).await;
    s.range("del/what is left", range(FROM_KEY, FROM_KEY)).await;
    s.delete("del/everything", delete(FROM_KEY, FROM_KEY)).await;
    s.range("del/nothing is left", range(FROM_KEY, FROM_KEY)).await;
    s.range("del/old revision", RangeRequest { revision: 7, ..range(FROM_KEY, FROM_KEY) }).await;
    Ok(())
}

/// Ranges: limits, order, filters, history.
pub async fn ranges(s: &mut Script) -> anyhow::Result<()> {
    for (key, value) in
        [("k1", "c"), ("k2", "b"), ("k3", "a"), ("k4", "d"), ("k2", "bb"), ("k4", "0"), ("k4", "1")]
    {
        s.seed(key, value).await?;
    }
    let all = || range("k", "l");
    s.range("range/all", all()).await;
    s.range("range/from key", range("k3", FROM_KEY)).await;
    s.range("range/everything", range(FROM_KEY, FROM_KEY)).await;
    s.range("range/reversed", range("k3", "k1")).await;
    s.range("range/equal bounds", range("k3", "k3")).await;
    s.range("range/limit", RangeRequest { limit: 2, ..all() }).await;
    s.range("range/limit as large as the range", RangeRequest { limit: 4, ..all() }).await;
    s.range("range/negative limit", RangeRequest { limit: -3, ..all() }).await;
    s.range("range/count only", RangeRequest { count_only: true, ..all() }).await;
    s.range("range/count only with a limit", RangeRequest { count_only: true, limit: 1, ..all() }).await;
    s.range("range/keys only", RangeRequest { keys_only: true, ..all() }).await;
    s.range("range/serializable", RangeRequest { serializable: true, ..all() }).await;
    s.range("range/old revision", RangeRequest { revision: 5, ..all() }).await;
    s.range("range/oldest revision", RangeRequest { revision: 1, ..all() }).await;
    s.range("range/negative revision", RangeRequest { revision: -5, ..all() }).await;
    s.range("range/future revision", RangeRequest { revision: 100, ..all() }).await;
    for order in 0..=2 {
        for target in 0..=4 {
            let request = RangeRequest { sort_order: order, sort_target: target, ..all() };
            // Keys have one value each, so that no order is left open; versions do not.
            if target != 1 {
                s.range(&format!("range/order {order} by {target}"), request.clone()).await;
            }
            if target != 1 {
                let limited = RangeRequest { limit: 2, ..request };
                s.range(&format!("range/order {order} by {target}, limit 2"), limited).await;
            }
        }
    }
    s.range("range/unknown order", RangeRequest { sort_order: 9, ..all() }).await;
    // An unknown sort target ends the real server's process: nothing to compare.
    s.range("range/min mod revision", RangeRequest { min_mod_revision: 5, ..all() }).await;
    s.range("range/max mod revision", RangeRequest { max_mod_revision: 5, ..all() }).await;
    s.range("range/min create revision", RangeRequest { min_create_revision: 4, ..all() }).await;
    s.range("range/max create revision", RangeRequest { max_create_revision: 3, ..all() }).await;
    let narrow = RangeRequest { min_mod_revision: 3, max_create_revision: 3, limit: 1, ..all() };
    s.range("range/filters with a limit", narrow).await;
    s.range("range/filter that nothing passes", RangeRequest { min_mod_revision: 100, ..all() }).await;
    s.range("range/filter and count", RangeRequest { min_mod_revision: 6, count_only: true, ..all() }).await;
    Ok(())
}

/// Compaction and what can be read after it.
pub async fn compaction(s: &mut Script) -> anyhow::Result<()> {
    s.compact("compact/empty store at 0", 0, false).await;
    s.compact("compact/future", 50, false).await;
    for number in 0..6 {
        s.seed(format!("k{}", number % 3), &number.to_string()).await?;
    }
    s.delete("compact/a deletion", delete("k0", "")).await;
    s.seed("k9", "x").await?;
    s.compact("compact/at 6", 6, true).await;
    s.compact("compact/again", 6, true).await;
    s.compact("compact/below", 3, false).await;
    s.compact("compact/negative", -1, false).await;
    s.compact("compact/beyond the current", 1000, true).await;
    let all = || range("k", "l");
    s.range("compact/read at the compaction point", RangeRequest { revision: 6, ..all() }).await;
    s.range("compact/read below it", RangeRequest { revision: 5, ..all() }).await;
    s.range("compact/read above it", RangeRequest { revision: 7, ..all() }).await;
    s.range("compact/read latest", all()).await;
    s.compact("compact/at the tombstone", 8, true).await;
    s.range("compact/read at the tombstone", RangeRequest { revision: 8, ..all() }).await;
    s.compact("compact/at the current", 9, true).await;
    s.range("compact/read at the current", RangeRequest { revision: 9, ..all() }).await;
    s.put("compact/put goes on", put("k0", "anew")).await;
    Ok(())
}
